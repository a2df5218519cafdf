"""The processes below this one: seen, signalled, reaped.

The rule this file guards: ``reap`` finding no child left is proof. A process that is
the subreaper of all it started has every descendant below it until it has
waited for it, so when the kernel says that there is no child left, there is no
descendant left. Walking /proc only finds whom to signal; what it misses in one
round is there in the next.

Standard library only: the fork server and its supervisors load it.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

STOPS = 8
STOPS_S = 1.0
"""A child that is stopped more often than this in so many seconds is stopped on
purpose, and killed: between two stops it may not get to do anything."""


def children(pid: int) -> list[int]:
    """Return the children of ``pid``, zombies too; none when it is gone, or hidden.

    A ``/proc`` with ``hidepid`` hides another user's process, and one that has made
    itself undumpable. Its children are seen when it is dead, and they are ours.

    Raises:
      OSError: there is no room for a look, as when no descriptors are left.
    """
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                suppress(FileNotFoundError, ProcessLookupError, PermissionError),
                open(f"/proc/{pid}/task/{thread}/children", "rb") as file,
            ):
                found.extend(map(int, file.read().split()))
    return found


def state(pid: int) -> str:
    """Return the kernel's letter for what a child does, such as ``Z`` for a zombie.

    Empty where it cannot be read: there is no ``/proc``, or no descriptor is left.
    """
    with suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return chr(file.read().rpartition(b") ")[2][0])
    return ""


def descendants(pid: int, spare: Collection[int] = ()) -> Iterator[int]:
    """Walk down from ``pid``, parents first, leaving out ``spare`` and what is below them."""
    waiting = [pid]
    while waiting:
        for child in children(waiting.pop()):
            if child not in spare:
                yield child
                waiting.append(child)


def reap(resume: Callable[[int], None] | None = None) -> tuple[dict[int, int], bool]:
    """Wait for every child that has ended, without blocking.

    Args:
      resume: is told every child that somebody has stopped.

    Returns:
      The wait status of each that has, by pid, and whether children are left.
      That none is left is the proof described above.
    """
    ended: dict[int, int] = {}
    options = os.WNOHANG if resume is None else os.WNOHANG | os.WUNTRACED
    while True:
        try:
            pid, status = os.waitpid(-1, options)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        if resume is not None and os.WIFSTOPPED(status):
            resume(pid)
        else:
            ended[pid] = status


class Resumer:
    """Lets children go on that somebody stops, and kills one that is stopped again and again."""

    def __init__(self) -> None:
        self._stops: dict[int, list[float]] = {}

    def __repr__(self) -> str:
        return f"<Resumer {len(self._stops)} stopped lately>"

    def resume(self, pid: int) -> None:
        """Send SIGCONT to a child, or SIGKILL."""
        since = time.monotonic() - STOPS_S
        self._stops = {of: at for of, at in self._stops.items() if at[-1] >= since}
        stops = self._stops.setdefault(pid, [])
        stops.append(time.monotonic())
        del stops[: -STOPS - 1]
        often = len(stops) > STOPS and stops[0] >= since
        send(pid, signal.SIGKILL if often else signal.SIGCONT)


class Terminator:
    """Asks each process of a tree to end, once."""

    def __init__(self) -> None:
        self._asked: set[int] = set()

    def __repr__(self) -> str:
        return f"<Terminator asked {len(self._asked)}>"

    def ask(self, leader: int | None) -> None:
        """Send SIGTERM to the descendants of this process that have not had it.

        SIGCONT follows, because a stopped process cannot act on SIGTERM. ``leader``
        is asked also where there is no room for a look; ``None`` if it is reaped.
        """
        if leader is not None:
            self._ask(leader)
        with suppress(OSError):
            for pid in descendants(os.getpid()):
                self._ask(pid)

    def _ask(self, pid: int) -> None:
        if pid not in self._asked:
            self._asked.add(pid)
            send(pid, signal.SIGTERM)
            send(pid, signal.SIGCONT)


def kill_descendants(spare: Collection[int] = (), leader: int | None = None) -> None:
    """Send SIGKILL to every descendant of this process, and to its process group.

    Where there is no room for a look, that is ``leader`` only, a child that leads a
    group and is not reaped. The next round may find more.

    Raises:
      OSError: ``EMFILE``, this process may open no more files, and so can never look.

    The groups catch what a descendant forks between our look and our signal.
    They cannot hold strangers: every command leads a session of its own, and a
    process group never spans two sessions.
    """
    own_group = os.getpgrp()
    if leader is not None:
        _kill(leader, own_group)
    try:
        for pid in descendants(os.getpid(), spare):
            _kill(pid, own_group)
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise


def _kill(pid: int, own_group: int) -> None:
    with suppress(ProcessLookupError):
        group = os.getpgid(pid)
        if group != own_group:
            with suppress(PermissionError):
                os.killpg(group, signal.SIGKILL)
    send(pid, signal.SIGKILL)


def kill_orphans(spare: Collection[int]) -> bool:
    """Kill every child that is not in ``spare``, with all below it.

    Returns:
      Whether there were any, zombies too: until it says no, look again.

    Raises:
      OSError: there was no room for a look.
    """
    found = any(child not in spare for child in children(os.getpid()))
    if found:
        kill_descendants(spare)
    return found


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; that there is no such process any more is no error.

    Nor is it one that we may not: a command can start a program that changes
    its user. What cannot be signalled is still waited for.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
