"""A command that does what makes cleaning up hard. Standard library only.

    payload.py MARKER GATE KIND direct|nested

MARKER is in the arguments of every process of it, so that a test can count
them from outside: arguments survive a setsid, a double fork and a cleared
environment. ``nested`` puts the kind below a process that just waits. The
leading process says "ready" when its tree is complete, and exits when the file
GATE exists.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
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
