"""Where runs meet what executes them: the one thing that both sides know.

A backend executes a request somehow: as a process of this machine, in a
container, or not as a process at all. ``runs`` needs no more of it than this.
"""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from codex_serve.core.json_text import Prompt
from codex_serve.core.request import RunRequest


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What tells a run from all others.

    Attributes:
      id: hexadecimal, and never used before.
      started_at: when it was made, in seconds since the epoch.
    """

    id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
      returncode: its exit code, or ``-n`` when signal n ended it.
      timed_out: whether the backend ended it because its time was up.
    """

    returncode: int
    timed_out: bool = False


class Output(Protocol):
    """One of a command's two output streams."""

    async def receive(self) -> bytes:
        """Wait for output and return what is ready; ``b""`` at the end.

        The end comes at the latest when ``Execution.wait`` or ``Execution.end`` has
        returned or raised, and all that was written before that has been received.

        Cancellation:
          Nothing is lost.
        """
        ...


class Execution(Protocol):
    """One command, from before its start until nothing of it is left."""

    @property
    def stdout(self) -> Output:
        """Its standard output."""
        ...

    @property
    def stderr(self) -> Output:
        """Its standard error."""
        ...

    async def start(self, limit_s: float) -> None:
        """Start the command. To be called once, before all else.

        Args:
          limit_s: the most seconds that it may run, ``inf`` for no limit, for
            backends that can keep to it while the event loop is blocked.

        Raises:
          LaunchError: it cannot be started, and that is known at once.

        Cancellation:
          It is not started.
        """
        ...

    async def feed(self) -> None:
        """Give the command what it has not got of its prompt. A task beside the others.

        Returns when it has all, or is gone, or does not want more.
        """
        ...

    async def wait(self) -> Ended:
        """Wait until the command has ended and what it left behind is gone.

        Raises:
          LaunchError: it could not be executed.
          ChildLostError: its watcher is gone; so is the command.

        Cancellation:
          Only stops the waiting.
        """
        ...

    async def end(self) -> None:
        """End the command and what it started: SIGTERM, the grace, SIGKILL.

        Returns once they are gone. Does nothing where they are gone already.
        """
        ...


class Backend(Protocol):
    """A way to execute requests.

    Attributes:
      ending_s: the most seconds that ending a run may take.
    """

    @property
    def ending_s(self) -> float: ...  # noqa: D102 - see the class

    def execute(
        self, info: RunInfo, request: RunRequest, prompt: Prompt
    ) -> AbstractAsyncContextManager[Execution]:
        """Return what executes ``request``. Leaving the context ends the command.

        Raises:
          ApiError: the request cannot be executed this way.
          LaunchError: when the context is entered: there is no room for it.
        """
        ...

    async def explain(self, info: RunInfo, exit_code: int) -> str:
        """Return what is known about a command's exit code, a line or nothing."""
        ...
