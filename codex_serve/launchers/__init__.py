"""How a request becomes a command: one pure function for each way to run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from codex_serve.model import RunRequest


@dataclass(frozen=True, slots=True)
class Launch:
    """A command as the operating system takes it.

    Attributes:
      argv: the command and its arguments. A name without a slash is looked up
        on the ``PATH`` of ``env``.
      env: its whole environment.
      cleanup: commands that remove what ending the process does not, such as a
        container; run in this order, with ``env``, once the process and all it
        started are gone, also when the server is dead.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cleanup: tuple[tuple[str, ...], ...] = ()

    def __repr__(self) -> str:
        """Leave out arguments and environment: they may hold secrets."""
        return f"<Launch {self.argv[0]!r}>"


Launcher = Callable[[RunRequest], Launch]
