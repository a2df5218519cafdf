"""Running a short command of the server's own."""

import tempfile
from dataclasses import dataclass

import trio

from codex_serve.launchers import Launch
from codex_serve.supervision.child import Starter


@dataclass(frozen=True, slots=True)
class Captured:
    """How a command ended, ``None`` when it took too long, and all that it wrote."""

    returncode: int | None
    stdout: str
    stderr: str


async def capture(start: Starter, launch: Launch, limit_s: float) -> Captured:
    """Run a command that reads nothing and writes little, for ``limit_s`` at most.

    Raises:
      LaunchError, ChildLostError: see ``Child.wait``.

    Cancellation:
      Ends the command.
    """
    returncode = None
    with (
        tempfile.TemporaryFile() as stdin,
        tempfile.TemporaryFile() as stdout,
        tempfile.TemporaryFile() as stderr,
    ):
        stdio = (stdin.fileno(), stdout.fileno(), stderr.fileno())
        async with start(launch, stdio, limit_s) as child:
            with trio.move_on_after(limit_s):
                ended = await child.wait()
                returncode = None if ended.timed_out else ended.returncode
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Captured(returncode, *texts)
