"""Running a short command of the server's own."""

from dataclasses import dataclass

import trio

from codex_serve.core.errors import ChildLostError, LaunchError
from codex_serve.core.execution import Ended
from codex_serve.core.json_text import Prompt
from codex_serve.processes.child import Starter
from codex_serve.processes.command import Launch
from codex_serve.processes.execution import execute
from codex_serve.processes.pipes import OutputPipe

_NO_PROMPT = memoryview(b'""')

MAX_BYTES = 1_048_576
"""The most that is kept of what a command writes on one stream."""


@dataclass(frozen=True, slots=True)
class Captured:
    """How a command ended, ``None`` when it took too long, and the start of what it wrote."""

    returncode: int | None
    stdout: str
    stderr: str


async def capture(starter: Starter, launch: Launch, limit_s: float) -> Captured:
    """Run a command that reads nothing and writes little, for ``limit_s`` at most.

    Raises:
      LaunchError, ChildLostError: see ``Execution.wait``.

    Cancellation:
      Ends the command.
    """
    ended: Ended | None = None
    failure: LaunchError | ChildLostError | None = None
    stdout, stderr = bytearray(), bytearray()
    async with execute(starter, launch, Prompt(_NO_PROMPT)) as execution:
        with trio.move_on_after(limit_s) as limit:
            await execution.start(limit_s)
        if limit.cancelled_caught:
            return Captured(None, "", "")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect, execution.stdout, stdout)
            nursery.start_soon(_collect, execution.stderr, stderr)
            try:
                with trio.move_on_at(limit.deadline):
                    ended = await execution.wait()
                if ended is None:
                    await execution.end()
            except (LaunchError, ChildLostError) as error:
                failure = error  # raised outside the nursery, to leave unwrapped
    if failure is not None:
        raise failure
    returncode = None if ended is None or ended.timed_out else ended.returncode
    return Captured(returncode, _text(stdout), _text(stderr))


async def _collect(pipe: OutputPipe, kept: bytearray) -> None:
    """Read ``pipe`` to its end, and keep the first ``MAX_BYTES``."""
    while data := await pipe.receive():
        kept += data[: MAX_BYTES - len(kept)]
        await trio.lowlevel.checkpoint()  # nothing need have waited: others have their turn


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace")
