"""Calls that fail as they do when something has run out. Standard library only.

A file says which one is to fail next, as ``WHO CALL ERRNO N``: the N-th that WHO
makes from then on. When it has failed, the file is empty.
"""

import builtins
import errno
import fcntl
import os
import resource
import socket
import subprocess
from collections.abc import Callable
from typing import Any

CALLS: dict[str, tuple[Any, str]] = {
    "pipe2": (os, "pipe2"),
    "socketpair": (socket, "socketpair"),
    "memfd_create": (os, "memfd_create"),
    "write": (os, "write"),
    "pread": (os, "pread"),
    "sendmsg": (socket.socket, "sendmsg"),
    "send": (socket.socket, "send"),
    "recvmsg": (socket.socket, "recvmsg"),
    "fork": (os, "fork"),
    "posix_spawn": (os, "posix_spawn"),
    "Popen": (subprocess, "Popen"),
    "prlimit": (resource, "prlimit"),
    "listdir": (os, "listdir"),
    "open": (builtins, "open"),
}

_os_open, _read, _pwrite, _ftruncate, _close, _flock = (
    *(os.open, os.read, os.pwrite, os.ftruncate, os.close),
    fcntl.flock,
)


def arm(path: str, plan: str) -> None:
    """Have a call fail, or none where ``plan`` is empty."""
    fd = _os_open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _flock(fd, fcntl.LOCK_EX)
    _write(fd, plan)
    _close(fd)


def _write(fd: int, plan: str) -> None:
    _ftruncate(fd, 0)
    _pwrite(fd, plan.encode(), 0)


def _due(path: str, who: str, call: str) -> int:
    """Count a call; return the errno with which it is to fail, or 0."""
    fd = _os_open(path, os.O_RDWR | os.O_CLOEXEC)
    _flock(fd, fcntl.LOCK_EX)
    try:
        plan = _read(fd, 100).decode().split()
        if plan[:2] != [who, call]:
            return 0
        name, count = plan[2], int(plan[3])
        _write(fd, f"{who} {call} {name} {count - 1}" if count > 1 else "")
        return int(getattr(errno, name)) if count == 1 else 0
    finally:
        _close(fd)


def install(path: str, who: str) -> None:
    """From now on ask ``path`` before each of ``CALLS`` in this process."""
    asking: list[str] = []
    for call, (holder, name) in CALLS.items():
        setattr(holder, name, _failing(path, who, call, getattr(holder, name), asking))


def _failing(
    path: str, who: str, call: str, original: Callable[..., Any], asking: list[str]
) -> Callable[..., Any]:
    def attempt(*args: Any, **kwargs: Any) -> Any:
        number = 0
        # A handler of a signal, which may come at any time, must not wait for the lock
        # that what it interrupts holds.
        if not asking:
            asking.append(call)
            try:
                number = _due(path, who, call)
            finally:
                asking.clear()
        if number:
            raise OSError(number, os.strerror(number))
        return original(*args, **kwargs)

    return attempt
