"""How a request becomes a command: one pure function for each way to run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codex_serve.model import RunRequest


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What tells a run from all others.

    Attributes:
      id: hexadecimal, and never used before.
      started_at: when it was admitted, in seconds since the epoch.
    """

    id: str
    started_at: float


@dataclass(frozen=True, slots=True)
class Removal:
    """How to remove what a command makes outside of its process tree.

    Attributes:
      argv: a command that exits with 0 when there is nothing (more) to remove,
        run again and again until it does, also when the server is dead.
      awaited: the command waits for what is removed, as ``docker run`` does for
        its container. So removing it is how the command is ended, in place of
        SIGTERM; a command that exits with 0 has seen it gone; and when the
        command is killed, what it had just asked for may yet appear.
    """

    argv: tuple[str, ...]
    awaited: bool = False


@dataclass(frozen=True, slots=True)
class Launch:
    """A command as the operating system takes it.

    Attributes:
      argv: the command and its arguments. A name without a slash is looked up
        on the ``PATH`` of ``env``.
      env: its whole environment, and that of the removal.
      removal: what is left to do when the command and all that it started are
        gone, if anything.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    removal: Removal | None = None

    def __repr__(self) -> str:
        """Leave out arguments and environment: they may hold secrets."""
        return f"<Launch {self.argv[0]!r}>"


Launcher = Callable[[RunRequest, RunInfo], Launch]
"""Raises ``ApiError`` for a request that cannot be run this way."""
