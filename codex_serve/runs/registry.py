"""The live runs of one server: counted, and ended together when it stops."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

import trio

from codex_serve.core.errors import ApiError
from codex_serve.core.execution import RunInfo


class StopReason(Enum):
    """Why the server ended a run: the exit code it reports."""

    TIMED_OUT = 124
    SHUTTING_DOWN = 143


class Run:
    """One live run: the scopes that bound it, and why they were closed.

    ``waiting`` goes around the start of the command, which may have to wait, ``limit``
    around the waiting for its end. Cancelling it ends the command; its output and
    its last events still reach the client.
    """

    def __init__(self, info: RunInfo, cli: str, timeout_s: float | None) -> None:
        self.info = info
        self.cli = cli
        self.timeout_s = timeout_s
        self.started_at = trio.current_time()
        deadline = math.inf if timeout_s is None else self.started_at + timeout_s
        self.waiting = trio.CancelScope(deadline=deadline)
        self.limit = trio.CancelScope(deadline=deadline)
        self._shutting_down = False

    def __repr__(self) -> str:
        return f"<Run {self.cli!r} limit={self.limit.deadline - self.started_at:g}s>"

    @property
    def seconds_left(self) -> float:
        """The time until the deadline, ``inf`` where there is none."""
        return self.limit.deadline - trio.current_time()

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the server ended the run; ``None`` when neither scope was cancelled."""
        if not (self.limit.cancelled_caught or self.waiting.cancelled_caught):
            return None
        return StopReason.SHUTTING_DOWN if self._shutting_down else StopReason.TIMED_OUT

    def shut_down(self) -> None:
        """End the command because the server stops."""
        self._shutting_down = True
        self.waiting.cancel()
        self.limit.cancel()


class Registry:
    """Admits runs and knows those that live."""

    def __init__(self) -> None:
        self._runs: set[Run] = set()
        self._closed = False
        self._empty = trio.Event()

    def __repr__(self) -> str:
        return f"<Registry {len(self._runs)} runs{' closed' if self._closed else ''}>"

    @contextmanager
    def admit(self, run: Run) -> Iterator[None]:
        """Count a run for as long as the context lasts.

        Raises:
          ApiError: 503 ``shutting_down``, once the server stops.
        """
        if self._closed:
            raise ApiError(503, "shutting_down", "The server is stopping and starts no more runs.")
        self._runs.add(run)
        try:
            yield
        finally:
            self._runs.discard(run)
            if self._closed and not self._runs:
                self._empty.set()

    def close(self) -> None:
        """Let no more runs in."""
        self._closed = True
        if not self._runs:
            self._empty.set()

    def shut_down_all(self) -> None:
        """End every live run; each stream still says so and closes."""
        for run in self._runs:
            run.shut_down()

    async def wait_empty(self) -> None:
        """Wait, after ``close``, until the last run has ended."""
        await self._empty.wait()
