"""What a failed execution means, in the words and numbers of a shell."""

import errno
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import IO

from codex_serve.core.errors import SERVER_FAILED, LaunchError
from codex_serve.processes.command import FILE_PATH, Launch
from codex_serve.processes.lookup import NO_INTERPRETER

NOT_FOUND = 127
NOT_EXECUTABLE = 126

_REASONS: Mapping[int, str] = {
    NO_INTERPRETER: "the interpreter or loader that it names does not exist",
    errno.ENOEXEC: "it is neither a program for this machine nor a script with a '#!' line",
    errno.E2BIG: "its arguments and environment are larger than the system allows",
}

_NO_ROOM = frozenset(
    {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EUSERS}
)
"""What says nothing about the command: processes, memory, descriptors, namespaces have run out."""


def launch_error(launch: Launch, error: OSError) -> LaunchError:
    """Explain why ``launch`` could not be executed, given what the attempt raised."""
    if error.errno in _NO_ROOM:
        return no_room_error(error)
    command = launch.argv[0]
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        where = "" if "/" in command else " on PATH"
        return LaunchError(NOT_FOUND, f"{command}: command not found{where}")
    reason = _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0)
    return LaunchError(NOT_EXECUTABLE, f"{command}: cannot be executed: {reason}")


@contextmanager
def file_of(launch: Launch) -> Iterator[tuple[int, ...]]:
    """Have ``launch.file`` in a file; yield its descriptor, none where there is no such file.

    Raises:
      LaunchError: there is no room for it.
    """
    if launch.file is None:
        yield ()
        return
    with ExitStack() as stack:
        with making_room():
            file = stack.enter_context(_anonymous_file())
            file.write(launch.file)
            file.seek(0)
        yield (file.fileno(),)


def argv_with_file(launch: Launch, fd: int | None = None) -> list[str]:
    """Return the arguments for a command that inherits its file, if it has one, as ``fd``."""
    argv = list(launch.argv)
    if fd is not None:
        named = next(index for index, arg in enumerate(argv) if arg.endswith(FILE_PATH))
        argv[named] = argv[named].removesuffix(FILE_PATH) + f"/dev/fd/{fd}"
    return argv


def _anonymous_file() -> IO[bytes]:
    """Open a file in memory, or where the system has none, one that has no name."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("file", os.MFD_CLOEXEC), "w+b")
    return tempfile.TemporaryFile()


def no_room_error(error: OSError) -> LaunchError:
    """Explain that the server has not what it needs to start any command, given what it met."""
    return LaunchError(SERVER_FAILED, f"The server cannot start a command: {error.strerror}.")


@contextmanager
def making_room() -> Iterator[None]:
    """Tell an ``OSError`` of making what every run needs as ``no_room_error`` does."""
    try:
        yield
    except OSError as error:
        raise no_room_error(error) from error
