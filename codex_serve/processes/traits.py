"""What a process hands on to those it starts, and others can change from outside.

A command may change it for its supervisor: ``prlimit --pid $PPID``, ``renice``,
``taskset``, another cgroup. A later command must not get it. (Left out is the I/O
priority: Python has no call for it, and by ``ctypes`` it takes as long as a file.)

Standard library only: the fork server and its supervisors load it.
"""

import os

Traits = tuple[object, ...]

_FILES = ("/proc/self/limits", "/proc/self/cgroup", "/proc/self/oom_score_adj")
_MOST_BYTES = 2048


def open_files() -> list[int]:
    """Open what ``read`` reads, close-on-exec. Kept open, reading takes half of the time.

    A file that this kernel does not have is left out.

    Raises:
      OSError: one cannot be opened. None is left open.
    """
    fds: list[int] = []
    for path in _FILES:
        try:
            fds.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            pass
        except OSError:
            close(fds)
            raise
    return fds


def close(fds: list[int]) -> None:
    """Close what ``open_files`` has opened."""
    for fd in fds:
        os.close(fd)


def read(fds: list[int]) -> Traits:
    """Return the traits of this process, to be compared; takes some 30 µs.

    Args:
      fds: see ``open_files``.
    """
    traits: Traits = (
        os.getpriority(os.PRIO_PROCESS, 0),
        os.sched_getaffinity(0),
        os.sched_getscheduler(0),
    )
    for fd in fds:  # no comprehension: it costs a supervisor 50 KB
        traits += (os.pread(fd, _MOST_BYTES, 0),)
    return traits
