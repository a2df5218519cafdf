"""The promise in Docker mode: no container outlives its run.

Each event meets runs of several ages, because it is while a container is being
created that one is left behind. Containers are counted at the engine, by a label of the
test's own. The negative control is the same server with commands started and
killed the usual way.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

import pytest

from conftest import StartServer
from engine import BASE_IMAGE, NEEDS_ENGINE, Mark, docker
from process_tree import children, marked, parent, wait_until
from serving import Server, Stream, exit_code, text_of

pytestmark = [*NEEDS_ENGINE, pytest.mark.timeout(180)]

AGES_S = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.8)
"""How long the docker client has been there when the event comes. It asks for the
container after some 30 ms, and the container runs after some 300 ms."""

LATER_S = 2.5
"""An engine creates a container up to this long after its client was killed."""

STUBBORN = "trap '' TERM INT HUP; echo ready; while :; do sleep 1; done"


class Cell:
    """One server with one run of some age."""

    def __init__(self, server: Server, mark: Mark, age_s: float) -> None:
        self.server = server
        self.mark = mark
        self.age_s = age_s
        self.stream: Stream

    def start(self, stack: ExitStack) -> None:
        self.stream = stack.enter_context(self.server.stream("sh", "-c", STUBBORN))
        wait_until(lambda: bool(self.clients()), "the docker client")
        time.sleep(self.age_s)

    def clients(self) -> list[int]:
        return marked(self.mark.option).get(self.mark.option, [])

    def supervisor(self) -> int:
        (client,) = self.clients()
        return parent(client)

    def check_stream(self, code: int) -> None:
        """The response is complete, and at that moment there is no container."""
        events = self.stream.rest()
        assert self.mark.containers() == []
        assert exit_code(events) == code, events


def time_out(cell: Cell) -> Callable[[], None]:
    return lambda: cell.check_stream(124)


def disconnect(cell: Cell) -> Callable[[], None]:
    cell.stream.disconnect()
    return lambda: None


def terminate_server(cell: Cell) -> Callable[[], None]:
    cell.server.signal(signal.SIGTERM)
    return lambda: cell.check_stream(143)


def kill_server(cell: Cell) -> Callable[[], None]:
    cell.server.signal(signal.SIGKILL)
    return lambda: None


def kill_client(cell: Cell) -> Callable[[], None]:
    for pid in cell.clients():
        os.kill(pid, signal.SIGKILL)
    return lambda: cell.check_stream(137)


def kill_supervisor(cell: Cell) -> Callable[[], None]:
    os.kill(cell.supervisor(), signal.SIGKILL)
    return lambda: cell.check_stream(125)


EVENTS = (time_out, disconnect, terminate_server, kill_server, kill_client, kill_supervisor)


def settings(mark: Mark, folder: Path, **more: str) -> dict[str, str]:
    return {
        "CODEX_DOCKER_IMAGE": BASE_IMAGE,
        "DOCKER_PULL": "missing",
        "DOCKER_RUN_ARGS": mark.option,
        "DOCKER_LEASE_DIR": str(folder),
        "SHUTDOWN_GRACE_SECONDS": "0",
        **more,
    }


@pytest.fixture
def make_cell(start_server: StartServer, tmp_path: Path) -> Iterator[Callable[..., Cell]]:
    """Make cells whose containers are removed at the end, whatever happens."""
    with ExitStack() as stack:

        def make(age_s: float, module: str, **more: str) -> Cell:
            mark = Mark()
            stack.callback(mark.remove_all)
            # With leases of its own: no other cell's server is to remove what this one leaves.
            folder = Path(mkdtemp(dir=tmp_path))
            return Cell(start_server(settings(mark, folder, **more), module=module), mark, age_s)

        yield make


def run_cells(
    make_cell: Callable[..., Cell],
    stack: ExitStack,
    event: Callable[[Cell], Callable[[], None]],
    module: str = "codex_serve",
) -> tuple[list[Cell], list[Callable[[], None]]]:
    """Have the event in a cell for each age; return the cells and what is to be checked then."""
    cells, checks = [], []
    for age_s in AGES_S:
        limit = {"RUN_RESPONSE_TIMEOUT_SECONDS": str(0.05 + age_s)} if event is time_out else {}
        cell = make_cell(age_s, module, **limit)
        cell.start(stack)
        cells.append(cell)
        checks.append(event(cell))
    return cells, checks


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_no_container_is_left(
    make_cell: Callable[..., Cell], event: Callable[[Cell], Callable[[], None]]
) -> None:
    with ExitStack() as stack:
        cells, checks = run_cells(make_cell, stack, event)
        for check in checks:
            check()
        wait_until(lambda: not any(cell.clients() for cell in cells), "the end of the clients")
        wait_until(lambda: not any(cell.mark.containers() for cell in cells), "the removal")
        time.sleep(LATER_S)
        assert {
            cell.age_s: cell.mark.containers() for cell in cells if cell.mark.containers()
        } == {}


@pytest.mark.parametrize(
    "event", [time_out, disconnect, terminate_server], ids=lambda event: event.__name__
)
def test_no_container_is_left_by_process_groups_either(
    make_cell: Callable[..., Cell], event: Callable[[Cell], Callable[[], None]]
) -> None:
    """Where there are no supervisors, the server does it, as long as it lives."""
    with ExitStack() as stack:
        limit = {"RUN_RESPONSE_TIMEOUT_SECONDS": "1"} if event is time_out else {}
        cell = make_cell(0.3, "codex_serve", RUN_ISOLATION="process-group", **limit)
        cell.start(stack)
        event(cell)()
        wait_until(lambda: not cell.clients(), "the end of the client")
        wait_until(lambda: not cell.mark.containers(), "the removal")
        time.sleep(LATER_S)
        assert cell.mark.containers() == []


@pytest.mark.parametrize("event", [disconnect, kill_server], ids=lambda event: event.__name__)
def test_the_battery_finds_the_containers_that_the_usual_way_leaves(
    make_cell: Callable[..., Cell], event: Callable[[Cell], Callable[[], None]]
) -> None:
    with ExitStack() as stack:
        cells, _ = run_cells(make_cell, stack, event, module="plain_server")
        time.sleep(LATER_S)
        assert any(cell.mark.containers() for cell in cells)


def test_what_ends_well_and_what_fails_leave_nothing(
    start_server: StartServer, tmp_path: Path
) -> None:
    mark = Mark()
    server = start_server(settings(mark, tmp_path))
    for code in (0, 3, 125, 137):
        assert exit_code(server.run("sh", "-c", f"exit {code}")) == code
        assert mark.containers() == []
    assert exit_code(server.run("sh", "-c", "kill -9 $$")) == 137
    assert mark.containers() == []


@pytest.fixture
def bash_as_sh(tmp_path: Path) -> str:
    """A PATH on which ``sh`` is one that takes functions from its environment."""
    folder = tmp_path / "bin"
    folder.mkdir()
    bash = shutil.which("bash")
    assert bash is not None
    (folder / "sh").symlink_to(bash)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("isolation", ["subreaper", "process-group"])
def test_no_variable_of_a_request_takes_part_in_what_the_server_executes(
    start_server: StartServer, tmp_path: Path, mark: Mark, bash_as_sh: str, isolation: str
) -> None:
    trace = tmp_path / "trace"
    more = {"PATH": bash_as_sh, "RUN_ISOLATION": isolation}
    server = start_server(settings(mark, tmp_path / "leases", **more))
    env = {f"BASH_FUNC_{name}%%": f"() {{ : >>{trace}; }}" for name in ("docker", "grep", "exec")}
    assert exit_code(server.run("sh", "-c", "exit 3", env=env)) == 3
    assert mark.containers() == []
    with server.stream("sh", "-c", STUBBORN, env=env) as stream:
        stream.read_until("ready")
    wait_until(lambda: not mark.containers(), "the removal")
    wait_until(lambda: not marked(mark.option), "the end of the client")
    assert exit_code(server.run("sh", "-c", "exit 125", env={"PATH": "/nonexistent:/bin"})) == 125
    assert not trace.exists()


def kill_all_at_once(server: Server) -> None:
    """Kill the server and all its helpers, so that there is nobody left to clean up."""
    (fork_server,) = children(server.pid)
    for pid in (server.pid, fork_server, *children(fork_server)):
        os.kill(pid, signal.SIGKILL)


def start_run(server: Server, stack: ExitStack) -> None:
    stack.enter_context(server.stream("sh", "-c", STUBBORN)).read_until("ready")


def test_the_next_start_removes_what_a_dead_server_left_and_nothing_else(
    start_server: StartServer, tmp_path: Path
) -> None:
    dead, living, stranger = Mark(), Mark(), Mark()
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    with ExitStack() as stack:
        for mark in (dead, living, stranger):
            stack.callback(mark.remove_all)
        doomed = start_server(settings(dead, here))
        start_run(doomed, stack)
        start_run(start_server(settings(living, here)), stack)
        # One whose leases are kept elsewhere, as on another machine, and no server's at all.
        start_run(start_server(settings(living, elsewhere)), stack)
        stubborn = ("--detach", "--init", BASE_IMAGE, "sh", "-c", STUBBORN)
        docker("run", stranger.option, *stubborn)
        kill_all_at_once(doomed)
        time.sleep(LATER_S)
        assert len(dead.containers()) == 1  # else the next lines show nothing
        assert len(list(here.glob("*.lease"))) == 2
        server = start_server(settings(Mark(), here))
        wait_until(lambda: dead.containers() == [], "the removal of what was left")
        wait_until(lambda: len(list(here.glob("*.lease"))) == 2, "the removal of its lease")
        assert len(living.containers()) == 2
        assert len(stranger.containers()) == 1
        server.wait_for_log("a dead server left")


def test_what_has_expired_is_removed_only_if_its_server_is_not_known_to_live(
    start_server: StartServer, tmp_path: Path
) -> None:
    past, future = int(time.time()) - 60, int(time.time()) + 3600
    unknown = {expiry: Mark() for expiry in (str(past), str(future), "never")}
    held = Mark()
    with ExitStack() as stack:
        for mark in (held, *unknown.values()):
            stack.callback(mark.remove_all)
        start_server(settings(Mark(), tmp_path))
        (lease,) = tmp_path.glob("*.lease")

        def start(mark: Mark, instance: str, expiry: object) -> None:
            labels = (f"codex-serve.instance={instance}", f"codex-serve.expires={expiry}")
            options = [mark.option, *(f"--label={label}" for label in labels)]
            docker("run", "--detach", "--init", *options, BASE_IMAGE, "sleep", "600")

        start(held, lease.stem, past)
        for expiry, mark in unknown.items():
            start(mark, "0123456789abcdef", expiry)
        start_server(settings(Mark(), tmp_path))
        wait_until(lambda: unknown[str(past)].containers() == [], "the removal of the expired one")
        assert len(held.containers()) == 1
        assert [len(mark.containers()) for mark in unknown.values()] == [0, 1, 1]


def test_a_lease_is_held_while_a_helper_lives_and_is_removed_by_a_clean_stop(
    start_server: StartServer, tmp_path: Path
) -> None:
    mark = Mark()
    server = start_server(settings(mark, tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    server.signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_command_does_not_hold_the_lease(start_server: StartServer, tmp_path: Path) -> None:
    mark = Mark()
    server = start_server(settings(mark, tmp_path))
    with server.stream("sh", "-c", STUBBORN) as stream:
        stream.read_until("ready")
        for pid in marked(mark.option)[mark.option]:
            files = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
            assert not [file for file in files if file.endswith(".lease")]


def test_an_engine_that_cannot_be_reached_is_told_soon(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(settings(Mark(), tmp_path, DOCKER_HOST=f"unix://{tmp_path}/no-such.sock"))
    events = server.run("sh", "-c", "exit 0")
    assert exit_code(events) == 125
    assert "cannot reach its container engine" in text_of(events, "stderr")
    server.wait_for_log("cannot look for")
