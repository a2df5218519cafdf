"""A command that does what makes cleaning up hard. Standard library only.

    payload.py MARKER GATE KIND direct|nested

MARKER is in the arguments of every process of it, so that a test can count
them from outside: arguments survive a setsid, a double fork and a cleared
environment. ``nested`` puts the kind below a process that just waits. The
leading process says "ready" when its tree is complete, and exits when the file
GATE exists.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

NAP_S = 0.01
GENERATION_S = 0.1
"""How long each process of a respawning kind lives: longer than a look at all
processes takes, so that no look misses it."""


def sleep_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


def spawn(work: Callable[[], object]) -> None:
    """Fork a child that does ``work``; return once it has begun."""
    begun, begin = os.pipe()
    if os.fork() == 0:
        os.write(begin, b".")
        os.close(begin)
        os.close(begun)
        work()
        os._exit(0)
    os.close(begin)
    os.read(begun, 1)
    os.close(begun)


def plain() -> None:
    """Nothing special."""


def stubborn() -> None:
    """Ignores every polite request."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def background() -> None:
    """A child in the background that holds stdout."""
    spawn(sleep_for_ever)


def new_session() -> None:
    """A child that leaves the session and the process group."""

    def child() -> None:
        os.setsid()
        sleep_for_ever()

    spawn(child)


def daemon() -> None:
    """A daemon by the book: setsid between two forks."""

    def second() -> None:
        os.setsid()
        spawn(sleep_for_ever)

    spawn(second)


def bare_daemon() -> None:
    """A daemon that has also cleared its environment and closed its streams."""

    def second() -> None:
        os.setsid()

        def third() -> None:
            os.closerange(0, 3)
            os.execve(sys.executable, [sys.executable, "-ISc", SLEEP, *sys.argv[1:]], {})

        spawn(third)

    spawn(second)


SLEEP = "import time\nwhile True: time.sleep(60)"


def respawning() -> None:
    """A process that forks itself anew and exits, over and over."""
    spawn(lambda: respawn(lambda: None))


def respawning_sessions() -> None:
    """The same, each in a session of its own."""
    spawn(lambda: respawn(os.setsid))


def respawn(prepare: Callable[[], object]) -> NoReturn:
    while True:
        time.sleep(GENERATION_S)
        if os.fork() != 0:
            os._exit(0)
        prepare()


def stopped() -> None:
    """A child that is stopped and cannot act on anything."""

    def child() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        sleep_for_ever()

    spawn(child)


def wrapper() -> None:
    """A shell that waits for another process."""
    spawn(
        lambda: os.execvp(
            "sh", ["sh", "-c", '"$0" "$@"; exit', sys.executable, "-ISc", SLEEP, *sys.argv[1:]]
        )
    )


def pipeline() -> None:
    """Children in process groups of their own, as an interactive shell makes them."""

    def child() -> None:
        os.setpgid(0, 0)
        sleep_for_ever()

    for _ in range(3):
        spawn(child)


def watchers() -> list[int]:
    """The supervisor and the fork server, as far as they are above this process and seen.

    Nobody else: a server that has no helpers is not theirs to be stopped.
    """
    found = []
    pid = os.getppid()
    while pid > 0:
        if b"codex_serve.processes.fork_server" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def stops_supervisor() -> None:
    """Stops the process that is to end it."""
    for pid in watchers()[:1]:
        os.kill(pid, signal.SIGSTOP)


def stops_watchers() -> None:
    """Stops the process that is to end it, and the one that watches that."""
    for pid in watchers():
        os.kill(pid, signal.SIGSTOP)


def changes_supervisor() -> None:
    """Changes for the process that is to end it what can be changed from outside."""
    for pid in watchers()[:1]:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
        resource.prlimit(pid, resource.RLIMIT_NPROC, (0, 0))
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0))
        os.sched_setaffinity(pid, {min(os.sched_getaffinity(pid))})
        Path(f"/proc/{pid}/oom_score_adj").write_text("900")


KINDS: dict[str, Callable[[], None]] = {
    kind.__name__: kind
    for kind in (
        plain,
        stubborn,
        background,
        new_session,
        daemon,
        bare_daemon,
        respawning,
        respawning_sessions,
        stopped,
        wrapper,
        pipeline,
        stops_supervisor,
        stops_watchers,
        changes_supervisor,
    )
}


def main() -> None:
    _, gate, kind, place = sys.argv[1:]
    if place == "nested":

        def child() -> None:
            KINDS[kind]()
            sleep_for_ever()

        spawn(child)
    else:
        KINDS[kind]()
    print("ready", flush=True)
    while not os.path.exists(gate):
        time.sleep(NAP_S)


if __name__ == "__main__":
    main()
