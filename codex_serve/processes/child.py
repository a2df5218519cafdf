"""What it means to start a command: the interface of every way to do it."""

from typing import Protocol

from codex_serve.core.execution import Ended
from codex_serve.processes.command import Launch


class Child(Protocol):
    """A started command and everything it has started in turn."""

    async def wait(self) -> Ended:
        """See ``Execution.wait``."""
        ...

    async def end(self) -> None:
        """See ``Execution.end``."""
        ...

    async def close(self) -> None:
        """End it where it has not ended. To be called once, when all else is over.

        Cancellation:
          Comes after it has ended.
        """
        ...


class Starter(Protocol):
    """A way to start commands."""

    async def start(self, launch: Launch, stdio: tuple[int, ...], limit_s: float) -> Child:
        """Start ``launch``, to be closed by the caller.

        Args:
          launch: what to start.
          stdio: descriptors for its stdin, stdout and stderr.
          limit_s: the most seconds that it may run, for starters that can keep to
            it while the event loop is blocked; ``inf`` for no limit.

        Raises:
          LaunchError: it could not be executed, and that is known at once.

        Cancellation:
          It is not started.
        """
        ...
