"""One run, from its request to its last event.

The rule this file guards: a stream ends with exactly one ``exit`` event, sent
when the command and everything it started are gone; where that cannot be kept
an exception leaves, and the edge cuts the stream visibly.
"""

import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing
from dataclasses import dataclass, replace
from typing import Protocol

import trio

from codex_serve.core.errors import SERVER_FAILED, ChildLostError, LaunchError
from codex_serve.core.events import Event, Exit, Stderr, Stdout, TextDecoder, encode_events
from codex_serve.core.execution import Backend, Ended, Execution, Output, RunInfo
from codex_serve.core.json_text import Prompt
from codex_serve.core.request import RunRequest
from codex_serve.runs.registry import Registry, Run, StopReason

logger = logging.getLogger(__name__)


class EventSender(Protocol):
    """Sends NDJSON lines."""

    async def begin(self) -> None:
        """Make what goes before the first event, where ``send`` has not done it.

        It takes time, so it is done while the command starts. It goes out with
        the first event.
        """
        ...

    async def send(self, data: bytes, *, more: bool = True) -> None:
        """Return when ``data`` has gone out, so that a slow reader holds the pipes back.

        Tasks may call it at the same time.

        Args:
          data: lines; or nothing, to tell the client that the run lives.
          more: whether more lines follow.
        """
        ...


QUIET_S = 0.005
"""How long a run may be silent before the client is told that it lives. A
shorter one is told in one packet, from the head of the response to its end."""


@dataclass(frozen=True, slots=True)
class Runner:
    """What all runs of a server share.

    Attributes:
      backend: executes them.
      registry: admits them.
      timeout_s: the longest that each may take; ``None`` for no limit.
    """

    backend: Backend
    registry: Registry
    timeout_s: float | None

    async def run(self, request: RunRequest, prompt: Prompt, events: EventSender) -> None:
        """Run one request to its end, reporting all it does on ``events``.

        Args:
          request: it is checked, and its CLI is on the list.
          prompt: closed as soon as nobody can read it any more.
          events: takes all events, and with the last that there are no more.

        Raises:
          ApiError: it cannot be run here, or not any more. Nothing has been sent.

        Cancellation:
          Ends the command at once: SIGTERM to all it started, the grace,
          SIGKILL. Returns only when they are gone. Sends nothing more.
        """
        run = Run(RunInfo(secrets.token_hex(8), time.time()), request.cli, self.timeout_s)
        with closing(prompt), self.registry.admit(run):
            try:
                execution = self.backend.execute(run.info, request, prompt)
                outcome = await _execute(run, execution, prompt, events)
                if outcome.exit_code and not outcome.words:
                    words = await self.backend.explain(run.info, outcome.exit_code)
                    outcome = replace(outcome, words=words)
            except LaunchError as error:
                outcome = _Outcome("not started", error.exit_code, f"{error.reason}\n")
            except ChildLostError as error:
                outcome = _Outcome("lost", SERVER_FAILED, f"{error}\n")
        seconds = trio.current_time() - run.started_at
        try:
            await events.send(encode_events(*outcome.events), more=False)
        finally:
            # The command's name, its end and its time; never its words. After the
            # last event, which would reach the client 0.1 ms later.
            logger.info(
                "run of %s %s with %d after %.3f s",
                *(run.cli, outcome.reason, outcome.exit_code, seconds),
            )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How a run ended: a word for the log, and the number and words for the client."""

    reason: str
    exit_code: int
    words: str = ""

    @property
    def events(self) -> tuple[Event, ...]:
        """The last events of the stream."""
        exit_event = Exit(self.exit_code)
        return (Stderr(self.words), exit_event) if self.words else (exit_event,)


async def _execute(
    run: Run,
    opening: AbstractAsyncContextManager[Execution],
    prompt: Prompt,
    events: EventSender,
) -> _Outcome:
    """Start the command, stream its output, and see it gone.

    Raises:
      LaunchError, ChildLostError: see ``Execution.wait``.
    """
    ended: Ended | None = None
    failure: LaunchError | ChildLostError | None = None
    async with opening as execution:
        with run.waiting:
            await execution.start(run.seconds_left)
        if run.waiting.cancelled_caught:
            return _outcome(run, None)
        await events.begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, execution.stdout, Stdout, events)
            nursery.start_soon(_pump, execution.stderr, Stderr, events)
            if prompt:
                nursery.start_soon(execution.feed)
            try:
                with run.limit:
                    with trio.move_on_after(QUIET_S) as quiet:
                        ended = await execution.wait()
                    if quiet.cancelled_caught:
                        # A task, so that the limit does not cut short what is being sent.
                        nursery.start_soon(events.send, b"")
                        ended = await execution.wait()
                if run.limit.cancelled_caught:
                    await execution.end()
            except (LaunchError, ChildLostError) as error:
                failure = error  # raised outside the nursery, to leave unwrapped
    if failure is not None:
        raise failure
    return _outcome(run, ended)


def _outcome(run: Run, ended: Ended | None) -> _Outcome:
    """Tell how the run ended; ``ended`` is unknown where ``run`` was ended."""
    stop_reason = run.stop_reason
    if ended is not None and ended.timed_out:
        stop_reason = StopReason.TIMED_OUT
    match stop_reason:
        case StopReason.TIMED_OUT:
            limit = f"{run.timeout_s:.15g}"
            words = f"Request timed out while waiting for CLI response ({limit}s)."
            return _Outcome("timed out", StopReason.TIMED_OUT.value, words)
        case StopReason.SHUTTING_DOWN:
            words = "The server is stopping: it ended this run."
            return _Outcome("was stopped", StopReason.SHUTTING_DOWN.value, words)
        case None:
            assert ended is not None
            code = ended.returncode
            return _Outcome("exited", code if code >= 0 else 128 - code)


async def _pump(
    output: Output, event: Callable[[str], Stdout | Stderr], events: EventSender
) -> None:
    """Send what comes out of ``output`` until its end, all that is ready at once."""
    decoder = TextDecoder()
    while data := await output.receive():
        if lines := encode_events(*map(event, decoder.decode(data))):
            await events.send(lines)
        await trio.lowlevel.checkpoint()  # nothing need have waited: others have their turn
    if text := decoder.finish():
        await events.send(encode_events(event(text)))
