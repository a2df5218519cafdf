"""How a request becomes a command: one pure function for each way to run it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from codex_serve.core.execution import RunInfo
from codex_serve.core.request import RunRequest

What = tuple[Literal["folder"], str] | tuple[Literal["container"], str, str]
"""``("folder", PATH)`` or ``("container", CLIENT, NAME)``, where ``PATH`` and the path of the
docker client are absolute."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What a command makes outside of its process tree, and is to be removed.

    It is tried again and again until nothing is left, also when the server is
    dead: see ``disposal``. Nothing of a request takes part in it.

    Attributes:
      what: a folder or a container.
      awaited: the command waits for what is removed, as ``docker run`` does for
        its container. So removing it is how the command is ended, in place of
        SIGTERM; a command that exits with 0 has seen it gone; and when the
        command is killed, what it had just asked for may yet appear.
    """

    what: What
    awaited: bool = False


FILE_PATH = "/dev/fd/3"
"""Where a command finds ``Launch.file``."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command as the operating system takes it.

    Attributes:
      argv: the command and its arguments. A name without a slash is looked up
        on the ``PATH`` of ``env``.
      env: its whole environment.
      removal: what is left to do when the command and all that it started are
        gone, if anything.
      file: what the command can read from ``FILE_PATH``, if anything. It can be
        megabytes. The first of ``argv`` that ends so is the one that names it.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    removal: Removal | None = None
    file: bytes | None = None

    def __repr__(self) -> str:
        """Leave out arguments and environment: they may hold secrets."""
        return f"<Launch {self.argv[0]!r}>"


Launcher = Callable[[RunRequest, RunInfo], Launch]
"""Raises ``ApiError`` for a request that cannot be run this way."""
