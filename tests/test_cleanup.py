"""The promise: nothing outlives its run.

Each kind of child (``payload.py``) meets each event. The children are counted
from outside, by a marker in their arguments: seen before the event, none after
it. The negative control runs the same battery against commands that are
started the usual way, and it must find some.
"""

import itertools
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from conftest import StartServer
from payload import KINDS
from processes import children, marked
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
        for cell, stream in self.streams.items():
            stream.read_until("ready")
            assert marked(self._marker(cell)), f"{cell} was not seen before the event"

    def _marker(self, cell: str) -> str:
        return f"{self.marker}-{cell}"

    def left(self) -> dict[str, list[int]]:
        """What lives, by cell."""
        found = {cell: marked(self._marker(cell)) for cell in self.cells}
        return {cell: pids for cell, pids in found.items() if pids}

    def wait_for_nothing(self) -> dict[str, list[int]]:
        """Give the promise its time; return what is left then."""
        deadline = time.monotonic() + PROMISE_S
        while (left := self.left()) and time.monotonic() < deadline:
            time.sleep(0.02)
        return left

    def kill(self) -> None:
        """End what a negative control has left."""
        for _ in range(100):
            left = self.left()
            if not left:
                return
            for pid in itertools.chain.from_iterable(left.values()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"cannot kill {left}")


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
        assert not marked(battery._marker(cell)), cell


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


def kill_fork_server(battery: Battery) -> None:
    """Runs go on without it; it is their end that must still work."""
    os.kill(fork_server(battery.server), signal.SIGKILL)
    disconnect(battery)


def kill_supervisors(battery: Battery) -> None:
    for pid in supervisors(battery.server):
        os.kill(pid, signal.SIGKILL)
    check_streams(battery, 125)


def kill_supervisors_then_fork_server(battery: Battery) -> None:
    pids = [*supervisors(battery.server), fork_server(battery.server)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def kill_fork_server_then_supervisors(battery: Battery) -> None:
    pids = [fork_server(battery.server), *supervisors(battery.server)]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def kill_server_and_fork_server(battery: Battery) -> None:
    pid = fork_server(battery.server)
    os.kill(battery.server.pid, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def kill_server_and_supervisors(battery: Battery) -> None:
    pids = supervisors(battery.server)
    for pid in [battery.server.pid, *pids]:
        os.kill(pid, signal.SIGKILL)


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
    timeout = {"RUN_RESPONSE_TIMEOUT_SECONDS": "6"} if event is time_out else {}
    return {**SETTINGS, **timeout}


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
@pytest.mark.parametrize("isolation", ["subreaper", "pidns"])
def test_nothing_is_left(
    start_server: StartServer,
    tmp_path: Path,
    event: Callable[[Battery], None],
    isolation: str,
) -> None:
    server = start_server({**settings_for(event), "RUN_ISOLATION": isolation})
    with battery(server, tmp_path, event) as cells:
        assert cells.wait_for_nothing() == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "event", [event for event, usual in EVENTS.items() if usual], ids=lambda event: event.__name__
)
def test_the_battery_finds_what_the_usual_way_leaves(
    start_server: StartServer, tmp_path: Path, event: Callable[[Battery], None]
) -> None:
    server = start_server(settings_for(event), module="plain_server")
    held = event in (let_exit, time_out, terminate_server)
    with ExitStack() as stack:
        cells = Battery(server, tmp_path, ("nested",))
        stack.callback(cells.kill)
        cells.start(stack)
        if held:
            with suppress(AssertionError):
                event(cells)
        else:
            event(cells)
        assert cells.wait_for_nothing() != {}
