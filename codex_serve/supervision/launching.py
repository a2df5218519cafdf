"""What a failed execution means, in the words and numbers of a shell."""

import errno
import os
from collections.abc import Mapping

from codex_serve.errors import LaunchError

NOT_FOUND = 127
NOT_EXECUTABLE = 126

_REASONS: Mapping[int, str] = {
    errno.ENOEXEC: "it is neither a program for this machine nor a script with a '#!' line",
    errno.E2BIG: "its arguments and environment are larger than the system allows",
}


def launch_error(command: str, path: str | None, error: OSError) -> LaunchError:
    """Explain why ``command`` could not be executed.

    Args:
      command: as it was asked for.
      path: the ``PATH`` it was looked up on, ``None`` for the system's default.
      error: what the attempt raised.
    """
    found = _exists(command, path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        if not found:
            where = "" if "/" in command else " on PATH"
            return LaunchError(NOT_FOUND, f"{command}: command not found{where}")
        reason = "the interpreter or loader that it names does not exist"
    else:
        reason = _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0)
    return LaunchError(NOT_EXECUTABLE, f"{command}: cannot be executed: {reason}")


def _exists(command: str, path: str | None) -> bool:
    if "/" in command:
        return os.path.exists(command)
    folders = (os.defpath if path is None else path).split(os.pathsep)
    return any(os.path.exists(os.path.join(folder, command)) for folder in folders)
