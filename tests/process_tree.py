"""Looking at processes from outside."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

TIMEOUT_S = 30

UNPRIVILEGED = ("setpriv", "--bounding-set=-all") if os.geteuid() == 0 else ()
"""In front of a command of root's: permissions hold for it, as for anybody else's."""


def state(pid: int) -> str | None:
    """The kernel's letter for what ``pid`` does, ``None`` when there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return stat.rpartition(")")[2].split()[0]


def alive(pid: int) -> bool:
    return state(pid) not in (None, "Z", "X")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll for something that happens outside of this process."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.005)


def wait_gone(pid: int) -> None:
    wait_until(lambda: not alive(pid), f"the end of process {pid}")


def memory_bytes(pid: int) -> int:
    """Resident memory of ``pid``."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def open_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def marked(marker: str) -> dict[str, list[int]]:
    """The processes that live and have an argument that starts with ``marker``, by argument."""
    found: dict[str, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                arguments = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for argument in arguments:
                if argument.startswith(marker.encode()) and alive(int(name)):
                    found.setdefault(argument.decode(), []).append(int(name))
    return found


def children(pid: int) -> list[int]:
    """The children of ``pid`` that live."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
            found += [child for child in map(int, text.split()) if alive(child)]
    return found


def parent(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


def started_at(pid: int) -> float:
    """When ``pid`` was forked, in seconds since boot, to within a hundredth; 0 when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return int(stat.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """All that is below ``pid``, zombies too."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = parent(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for ancestor in found:
        found += [child for child, its_parent in parents.items() if its_parent == ancestor]
    return found[1:]


def reap_adopted() -> None:
    """Reap the orphans that have become zombies of this process."""
    for name in os.listdir("/proc/self/task"):
        with suppress(FileNotFoundError, ProcessLookupError):  # that thread has just ended
            for child in map(int, Path(f"/proc/self/task/{name}/children").read_text().split()):
                if state(child) == "Z":
                    os.waitpid(child, os.WNOHANG)
