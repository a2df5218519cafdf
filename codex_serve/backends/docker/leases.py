"""Leases: how a server finds out which containers nobody will remove any more.

A server puts its instance's id on every container, and holds a lock on a file
of that name. Its fork server and its supervisors, which remove containers also
when the server is dead, share the lock, and the kernel frees it when the last
of them is gone. So a lease that can be taken is a dead instance's.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from codex_serve.core.errors import ConfigError

SUFFIX = ".lease"


@contextmanager
def hold_lease(folder: Path, instance: str) -> Iterator[int]:
    """Hold the lease of ``instance``; its descriptor is for the helpers to share.

    Raises:
      ConfigError: there can be no such file in ``folder``.
    """
    path = folder / f"{instance}{SUFFIX}"
    unlocked = path.with_suffix(".new")  # a lease is there only once it is held
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(unlocked, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unlocked.rename(path)
    except OSError as error:
        raise ConfigError(
            "DOCKER_LEASE_DIR must be a folder in which this user can make and lock files, "
            f"not {str(folder)!r}: {error.strerror}"
        ) from None
    try:
        yield fd
    finally:
        os.close(fd)
        with _taken(path) as taken:  # unless a helper goes on
            if taken:
                _unlink(path)


@dataclass(frozen=True, slots=True)
class Leases:
    """The instances of a folder.

    Attributes:
      known: all that have a lease there.
      dead: those of them whose lease nobody held.
    """

    known: frozenset[str]
    dead: frozenset[str]


@contextmanager
def take_free_leases(folder: Path) -> Iterator[Leases]:
    """Take the leases that nobody holds, and remove them at the end, unless by an exception."""
    with ExitStack() as stack:
        paths = list(folder.glob(f"*{SUFFIX}"))
        free = [path for path in paths if stack.enter_context(_taken(path))]
        yield Leases(
            known=frozenset(path.stem for path in paths),
            dead=frozenset(path.stem for path in free),
        )
        for path in free:
            _unlink(path)


def _unlink(path: Path) -> None:
    """Remove a lease that nobody holds; where that cannot be, it only stays known."""
    with suppress(OSError):
        path.unlink()


@contextmanager
def _taken(path: Path) -> Iterator[bool]:
    """Try to hold the lock of ``path``; say whether that went well."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # it is gone, or somebody else's
        yield False
        return
    try:
        taken = False
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            taken = True
        yield taken
    finally:
        os.close(fd)
