"""How to remove what a command made outside of its process tree: a folder, a container.

The rule this file guards: nothing here comes from a request. What is to be
removed is named by the server, as ``command.Removal.what``; what is executed
for it has an absolute path and the environment of this process.

An attempt is a process of its own, which its supervisor can watch and kill like
any other, and its exit code says what came of it. Attempts are repeated until
one says ``GONE``, see ``removal_limits.py``.

Standard library only: the fork server loads it before it forks.
"""

import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from codex_serve.processes import linux
from codex_serve.processes.removal_limits import ATTEMPT_S

GONE, FAILED, GOING_ON = 0, 1, 2
"""Exit codes of an attempt: nothing is left; it got nowhere; there is less than before."""

WORK_S = ATTEMPT_S / 2
"""How long an attempt works on a folder, before it says that there is less."""

LOOK_S = 0.02
WORDS_BYTES = 65_536
"""How much is kept of what the docker client says, its end."""

NOTHING_LEFT = b"no such container"
"""Only these words of ``docker rm`` mean that there is nothing left for it: it reports
success, or a removal in progress, while the container is still listed."""


def begin(what: Sequence[str]) -> int | None:
    """Begin an attempt in a child of this process, which must have a single thread.

    Returns:
      The child's pid; ``None`` where there is no room for a process.
    """
    try:
        pid = os.fork()
    except OSError:
        return None
    if pid:
        return pid
    try:
        linux.signal_at_parents_end(signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        os._exit(attempt(what))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(FAILED)


def attempt(what: Sequence[str]) -> int:
    """Make one attempt to remove ``what``; return an exit code.

    Args:
      what: ``command.Removal.what``.
    """
    match what:
        case "folder", path:
            return remove_folder(path, time.monotonic() + WORK_S)
        case "container", client, name:
            return _remove_container(client, name)
    raise ValueError(f"cannot remove {what!r}")


def _remove_container(client: str, name: str) -> int:
    """Call ``docker rm`` once, and read what it says."""
    told, tell = os.pipe()
    argv = (client, "rm", "--force", "--volumes", name)
    actions = ((os.POSIX_SPAWN_DUP2, tell, 1), (os.POSIX_SPAWN_DUP2, tell, 2))
    try:
        pid = os.posix_spawn(client, argv, os.environ, file_actions=actions)
    except OSError:  # the client has gone, or there is no room for it
        return FAILED
    finally:
        os.close(tell)
    return GONE if NOTHING_LEFT in _words(pid, told).lower() else FAILED


def _words(pid: int, told: int) -> bytes:
    """Read what ``pid`` says until it has ended, whoever else holds the pipe."""
    words = b""
    ended = False
    while True:
        if select.select([told], [], [], 0.0 if ended else LOOK_S)[0]:
            more = os.read(told, WORDS_BYTES)
            words = (words + more)[-WORDS_BYTES:]
            if not more:
                return words
        elif ended:
            return words
        else:
            ended = os.waitpid(pid, os.WNOHANG)[0] == pid


def remove_folder(path: str, until: float) -> int:
    """Remove a folder with all that is in it, or what else is at ``path``; follow no link below.

    What lies deeper than one level is moved up to the first. So two
    descriptors are enough for any depth, no path gets too long, no step goes
    up, where it might arrive elsewhere, and another attempt goes on where
    this one has stopped.

    Args:
      path: absolute.
      until: when to stop, by ``time.monotonic``.

    Returns:
      An exit code.
    """
    place, name = os.path.split(path)
    steps = 0
    try:
        with _opened(place) as parent:
            if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(name, dir_fd=parent)
                return GONE
            with _opened(name, parent) as top:
                while True:
                    more = _empty(top, until)
                    steps += more
                    if _done(os.rmdir, name, parent):
                        return GONE
                    if not more or time.monotonic() >= until:
                        return GOING_ON if steps else FAILED
    except FileNotFoundError:
        return GONE
    except OSError:
        return FAILED


def _empty(top: int, until: float) -> int:
    """Remove what is in ``top`` and move up what is below; return how many steps were made."""
    steps = 0
    for entry in _entries(top, until):
        if not entry.is_dir(follow_symlinks=False):
            steps += _done(os.unlink, entry.name, top)
            continue
        with suppress(OSError):  # it is gone, or not ours
            with _opened(entry.name, top) as folder:
                for inner in _entries(folder, until):
                    if inner.is_dir(follow_symlinks=False):
                        steps += _move_up(inner.name, folder, top)
                    else:
                        steps += _done(os.unlink, inner.name, folder)
            steps += _done(os.rmdir, entry.name, top)
    return steps


def _entries(folder: int, until: float) -> Iterator["os.DirEntry[str]"]:
    """Yield what is in a folder, while there is time."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if time.monotonic() >= until:
                return
            yield entry


def _done(remove: Callable[..., None], name: str, folder: int) -> bool:
    """Say whether ``remove`` has removed something."""
    try:
        remove(name, dir_fd=folder)
    except OSError:  # it is gone, or not ours, or not empty: the next look tells
        return False
    return True


def _move_up(name: str, folder: int, top: int) -> bool:
    """Move the folder ``name`` from ``folder`` to ``top``, under a name that is new there."""
    with suppress(OSError):
        new_name = f".{time.monotonic_ns()}"
        try:
            os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=top)
        except PermissionError:  # a folder that is moved is written to
            with _opened(name, folder):
                os.rename(name, new_name, src_dir_fd=folder, dst_dir_fd=top)
        return True
    return False


@contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    """Open a folder; one that is in ``parent`` and no link, and made writable where it is ours.

    Raises:
      OSError: it cannot be opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if parent is None:
        fd = os.open(name, flags)
    else:
        try:
            fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
        except PermissionError:
            with suppress(NotImplementedError):  # a C library before glibc 2.32
                os.chmod(name, stat.S_IRWXU, dir_fd=parent, follow_symlinks=False)
            fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
    try:
        if parent is not None and ~os.fstat(fd).st_mode & stat.S_IRWXU:
            with suppress(PermissionError):
                os.fchmod(fd, stat.S_IRWXU)
        yield fd
    finally:
        os.close(fd)
