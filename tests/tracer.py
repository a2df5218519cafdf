"""Hold a process as a debugger does: it does nothing more, and SIGCONT is no help.

    tracer.py PID|parent

Says "traced" when it is held, and holds it until it is killed itself. Standard library only.
"""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x4000_0000


def hold(pid: int) -> None:
    """Stop ``pid`` until this process ends, or until that is killed."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace is refused")
    os.waitpid(pid, WALL)


@contextmanager
def traced(pid: int) -> Iterator[None]:
    """Hold ``pid``, so that it does nothing and nobody is told, as its parent is of a stop."""
    with subprocess.Popen(
        [sys.executable, __file__, str(pid)], stdout=subprocess.PIPE, text=True
    ) as tracer:
        try:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == "traced\n"
            yield
        finally:
            tracer.kill()


def main() -> None:
    hold(os.getppid() if sys.argv[1] == "parent" else int(sys.argv[1]))
    print("traced", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
