"""The few things that Linux offers for process trees and Python does not.

Standard library only: the fork server and its supervisors load it.
"""

import ctypes
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x0002_0000
_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWPID = 0x2000_0000
_MS_REC_PRIVATE = 0x4000 | 0x4_0000
_MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8

_libc = ctypes.CDLL(None, use_errno=True)
if sys.platform == "linux":
    # Told its types, ctypes makes the call without making objects for it, and every
    # object that a supervisor makes or touches is a page that it no longer shares.
    _libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process.

    Source: prctl(2), ``PR_SET_CHILD_SUBREAPER``.

    Raises:
      OSError: the kernel has no subreapers.
    """
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def signal_at_parents_end(number: int) -> None:
    """Get signal ``number`` when the thread that forked this process ends.

    Source: prctl(2), ``PR_SET_PDEATHSIG``. Safe only below a process with a
    single thread: it is the thread's end that counts, not the process's.
    """
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0))


def hide() -> None:
    """Keep memory and environment of this process from others of the same user.

    Source: prctl(2), ``PR_SET_DUMPABLE``. Most of ``/proc/PID`` is root's from
    now on; a program that this process executes is not hidden any more.
    """
    if sys.platform == "linux":
        _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))


def enter_pid_namespace() -> None:
    """Make the next child of this process the first of a new PID namespace.

    An unprivileged user gets a user namespace around it, with the same ids.

    Raises:
      OSError: the kernel or the container refuses.
    """
    uid, gid = os.geteuid(), os.getegid()
    _check(_libc.unshare(_CLONE_NEWPID | (_CLONE_NEWUSER if uid else 0)))
    if uid:
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")


def mount_own_proc() -> None:
    """Show this process the processes of its PID namespace, and only them, in ``/proc``.

    Raises:
      OSError: the kernel or the container refuses.
    """
    _check(_libc.unshare(_CLONE_NEWNS))  # its parent must go on seeing the others
    _check(_libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None))
    _check(_libc.mount(b"proc", b"/proc", b"proc", _MS_NOSUID_NODEV_NOEXEC, None))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
