"""The battery: each kind of child meets each event.

The children (``payload.py``) are counted from outside, by a marker in their
arguments: seen before the event, none after it.
"""

import itertools
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from payload import KINDS
from process_tree import (
    children,
    marked,
)
from serving import Server, Stream, exit_code

PAYLOAD = str(Path(__file__).with_name("payload.py"))
GRACE_S = "0.3"


PROMISE_S = 2.5
"""How long after a sudden death something of a run may still be there."""

SETTINGS = {"RUN_KILL_GRACE_SECONDS": GRACE_S, "SHUTDOWN_GRACE_SECONDS": "0.1"}


class Battery:
    """One run of each kind of child, all on one server."""

    def __init__(self, server: Server, folder: Path, places: tuple[str, ...]) -> None:
        self.server = server
        self.gate = folder / "gate"
        self.cells = [f"{kind}/{place}" for kind in KINDS for place in places]
        self.marker = secrets.token_hex(8)
        self.streams: dict[str, Stream] = {}

    def start(self, stack: ExitStack) -> None:
        for cell in self.cells:
            kind, place = cell.split("/")
            arguments = [self._marker(cell), str(self.gate), kind, place]
            self.streams[cell] = stack.enter_context(
                self.server.stream("python3", "-IS", PAYLOAD, *arguments)
            )
        for stream in self.streams.values():
            stream.read_until("ready")
        assert set(self.left()) == set(self.cells), "not all were seen before the event"

    def _marker(self, cell: str) -> str:
        return f"{self.marker}-{cell}"

    def left(self, looks: int = 1) -> dict[str, list[int]]:
        """What lives, by cell; nothing only if none of ``looks`` has seen anything."""
        prefix = self._marker("")
        for _ in range(looks):
            if found := marked(prefix):
                return {cell.removeprefix(prefix): pids for cell, pids in found.items()}
        return {}

    def wait_for_nothing(self) -> dict[str, list[int]]:
        """Give the promise its time; return what is left then."""
        deadline = time.monotonic() + PROMISE_S
        while (left := self.left(looks=3)) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def kill(self) -> None:
        """End what a negative control has left."""
        deadline = time.monotonic() + 10
        while left := self.left(looks=10):
            assert time.monotonic() < deadline, f"cannot kill {left}"
            for pid in itertools.chain.from_iterable(left.values()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def fork_server(server: Server) -> int:
    (pid,) = children(server.pid)
    return pid


def supervisors(server: Server) -> list[int]:
    return children(fork_server(server))


def let_exit(battery: Battery) -> None:
    battery.gate.touch()
    check_streams(battery, 0)


def time_out(battery: Battery) -> None:
    check_streams(battery, 124)


def check_streams(battery: Battery, code: int) -> None:
    """The responses are complete, and at that moment nothing is left."""
    for cell, stream in battery.streams.items():
        assert exit_code(stream.rest()) == code, cell
        assert cell not in battery.left()


def disconnect(battery: Battery) -> None:
    for stream in battery.streams.values():
        stream.disconnect()


def terminate_server(battery: Battery) -> None:
    battery.server.signal(signal.SIGTERM)
    check_streams(battery, 143)
    assert battery.server.process.wait(30) == 0


def kill_server(battery: Battery) -> None:
    battery.server.signal(signal.SIGKILL)


def abort_server(battery: Battery) -> None:
    battery.server.signal(signal.SIGABRT)


def kill(*pids: int) -> None:
    """Kill all of them at once; one that has noticed the end of another may be gone already."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_fork_server(battery: Battery) -> None:
    """Runs go on without it; it is their end that must still work."""
    kill(fork_server(battery.server))
    disconnect(battery)


def kill_supervisors(battery: Battery) -> None:
    kill(*supervisors(battery.server))
    check_streams(battery, 125)


def kill_supervisors_then_fork_server(battery: Battery) -> None:
    kill(*supervisors(battery.server), fork_server(battery.server))


def kill_fork_server_then_supervisors(battery: Battery) -> None:
    kill(*[fork_server(battery.server), *supervisors(battery.server)])


def kill_server_and_fork_server(battery: Battery) -> None:
    kill(*[battery.server.pid, fork_server(battery.server)])


def kill_server_and_supervisors(battery: Battery) -> None:
    kill(*[battery.server.pid, *supervisors(battery.server)])


EVENTS: dict[Callable[[Battery], None], bool] = {
    let_exit: True,
    time_out: True,
    disconnect: True,
    terminate_server: True,
    kill_server: True,
    abort_server: True,
    kill_fork_server: False,
    kill_supervisors: False,
    kill_supervisors_then_fork_server: False,
    kill_fork_server_then_supervisors: False,
    kill_server_and_fork_server: False,
    kill_server_and_supervisors: False,
}
"""The events; the value tells whether a server without supervisors has them too."""


SERVER_LIVES = (
    *(let_exit, time_out, disconnect, kill_fork_server, kill_supervisors),
    *(kill_supervisors_then_fork_server, kill_fork_server_then_supervisors),
)


@contextmanager
def battery(server: Server, folder: Path, event: Callable[[Battery], None]) -> Iterator[Battery]:
    # When the command itself exits, only what is below it can be left.
    places = ("nested",) if event is let_exit else ("direct", "nested")
    battery = Battery(server, folder, places)
    with ExitStack() as stack:
        battery.start(stack)
        event(battery)
        yield battery


def settings_for(event: Callable[[Battery], None]) -> dict[str, str]:
    # Long enough for all to be ready; the clock of each run starts with it.
    timeout = {"RUN_RESPONSE_TIMEOUT_SECONDS": "8"} if event is time_out else {}
    return {**SETTINGS, **timeout}


def kill_everybody(battery: Battery) -> None:
    """Server, fork server and supervisors at once: only a fence of the kernel stands this."""
    server = battery.server
    kill(*[server.pid, fork_server(server), *supervisors(server)])
