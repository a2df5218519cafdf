"""The promise: nothing outlives its run.

Each kind of child (``payload.py``) meets each event. The children are counted
from outside, by a marker in their arguments: seen before the event, none after
it. The negative control runs the same battery against commands that are
started the usual way, and it must find some.
"""

import http.client
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from battery import (
    EVENTS,
    SERVER_LIVES,
    SETTINGS,
    Battery,
    battery,
    disconnect,
    fork_server,
    kill_everybody,
    kill_server,
    kill_supervisors,
    let_exit,
    settings_for,
    supervisors,
    terminate_server,
    time_out,
)
from codex_serve.processes.command import FILE_PATH
from conftest import StartServer
from process_tree import (
    alive,
    children,
    descendants,
    open_fds,
    parent,
    started_at,
    state,
    wait_gone,
    wait_until,
)
from serving import Server, exit_code, text_of
from tracer import traced


@pytest.mark.slow
@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.__name__)
def test_nothing_is_left(
    start_server: StartServer, tmp_path: Path, event: Callable[[Battery], None]
) -> None:
    server = start_server(settings_for(event))
    with battery(server, tmp_path, event) as cells:
        assert cells.wait_for_nothing() == {}
    if event in SERVER_LIVES:
        wait_until(lambda: len(children(server.pid)) > 0, "a fork server")
        for _ in range(3):
            assert exit_code(server.run("sh", "-c", "sleep 0.1; exit 3")) == 3


@pytest.mark.slow
@pytest.mark.needs("pidns")
@pytest.mark.parametrize(
    "event",
    [let_exit, time_out, disconnect, kill_server, kill_supervisors, kill_everybody],
    ids=lambda event: event.__name__,
)
def test_nothing_is_left_in_a_pid_namespace(
    start_server: StartServer, tmp_path: Path, event: Callable[[Battery], None]
) -> None:
    server = start_server({**settings_for(event), "RUN_ISOLATION": "pidns"})
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


def test_a_background_process_that_holds_stdout_hangs_nothing_and_costs_nothing(
    server: Server,
) -> None:
    script = "head -c 300000 /dev/zero | tr '\\0' x; sleep 60 & echo $!"
    events = server.run("sh", "-c", script)
    text = text_of(events, "stdout")
    assert text[:300_000] == "x" * 300_000
    assert not alive(int(text[300_000:]))
    assert exit_code(events) == 0


def test_the_command_sees_three_descriptors_default_signals_and_its_own_session(
    start_server: StartServer,
) -> None:
    # The server gets what a careless parent hands on: ignored signals and an open file.
    careless = [
        "sh",
        "-c",
        "trap '' HUP INT QUIT TERM PIPE USR1; exec 7</dev/null; exec \"$@\"",
        "-",
    ]
    server = start_server(prefix=careless)
    # Python would set signals of its own; a shell and its tools report what they were given.
    script = "ls /proc/self/fd; grep -E 'SigIgn|SigBlk' /proc/self/status; cat /proc/$$/stat"
    lines = text_of(server.run("sh", "-c", script), "stdout").splitlines()
    assert lines[:4] == ["0", "1", "2", "3"]  # 3 is ls, looking
    blocked, ignored = (int(line.split()[1], 16) for line in lines[4:6])
    assert blocked == 0
    # 32 and 33 belong to the C library, which lets no program set them.
    assert ignored & ~(1 << 31 | 1 << 32) == 0
    pid, _, _, _, _, session, *_ = lines[6].split()
    assert session == pid


@pytest.mark.slow
def test_the_supervisor_keeps_the_deadline_while_the_server_is_stopped(
    start_server: StartServer,
) -> None:
    server = start_server({**SETTINGS, "RUN_RESPONSE_TIMEOUT_SECONDS": "1"})
    with server.stream("sh", "-c", "trap '' TERM; echo $$; sleep 60") as stream:
        pid = int(stream.next_event()["data"])
        server.signal(signal.SIGSTOP)
        try:
            wait_gone(pid)
        finally:
            server.signal(signal.SIGCONT)
        events = stream.rest()
    assert "timed out" in text_of(events, "stderr")
    assert exit_code(events) == 124


def test_a_killed_supervisor_costs_its_own_run_only(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    with (
        server.stream("sh", "-c", "echo $$; exec sleep 60") as lost,
        server.stream("sh", "-c", "echo $$; exec sleep 60") as other,
    ):
        lost_pid = int(lost.next_event()["data"])
        other_pid = int(other.next_event()["data"])
        os.kill(parent(lost_pid), signal.SIGKILL)
        events = lost.rest()
        assert text_of(events, "stderr") == "The run's supervisor was killed: the run is lost.\n"
        assert exit_code(events) == 125
        assert not alive(lost_pid)
        assert alive(other_pid)
        os.kill(other_pid, signal.SIGTERM)
        assert exit_code(other.rest()) == 143


def test_a_killed_fork_server_is_replaced_and_costs_no_run(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    with server.stream("sh", "-c", "echo $$; exec sleep 60") as stream:
        pid = int(stream.next_event()["data"])
        os.kill(fork_server(server), signal.SIGKILL)
        for _ in range(5):
            assert exit_code(server.run("sh", "-c", "exit 7")) == 7
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)
        assert exit_code(stream.rest()) == 137
    server.wait_for_log("fork server died")


@pytest.mark.slow
def test_a_fork_server_that_dies_while_it_forks_costs_no_run(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    killed_at = 0.0

    def fork_servers() -> list[int]:
        # What the last one forked is a child of the server too, but older than its death.
        return [pid for pid in children(server.pid) if started_at(pid) > killed_at + 0.02]

    with ExitStack() as stack:
        streams = []
        pids = []
        for _ in range(10):
            wait_until(lambda: len(fork_servers()) == 1, "a fork server")
            (pid,) = fork_servers()
            # Each start takes the supervisor that waits, and has another one forked.
            streams.append(stack.enter_context(server.stream("sh", "-c", "echo $$; exec sleep 60")))
            killed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
            os.kill(pid, signal.SIGKILL)
            pids.append(int(streams[-1].next_event()["data"]))
            wait_gone(pid)
        assert all(map(alive, pids))
        for pid, stream in zip(pids, streams, strict=True):
            os.kill(pid, signal.SIGINT)
            assert exit_code(stream.rest()) == 130


@pytest.mark.slow
@pytest.mark.needs("ptrace")
def test_more_runs_at_once_than_the_fork_server_can_be_asked_for_all_start(
    start_server: StartServer,
) -> None:
    server = start_server(SETTINGS)
    pid = fork_server(server)
    body = b'{"cli": "true"}'
    head = b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with ExitStack() as stack:
        with traced(pid):
            connections = [stack.enter_context(server.connect()) for _ in range(400)]
            for connection in connections:
                connection.sendall(head + b"Connection: close\r\nContent-Length: 15\r\n\r\n" + body)
            assert server.request("GET", "/clis").status == 200  # it has seen all of them
        for connection in connections:
            with connection.makefile("rb") as response:
                assert response.read().endswith(b'{"type":"exit","code":0}\n\r\n0\r\n\r\n')


@pytest.mark.slow
@pytest.mark.needs("ptrace")
def test_a_supervisor_that_reports_after_its_fork_servers_death_costs_no_run(
    start_server: StartServer,
) -> None:
    """The server has it and the end of the fork server to look at, in any order."""
    server = start_server(SETTINGS)
    with ExitStack() as stack:
        stack.callback(server.signal, signal.SIGCONT)  # a server that is stopped cannot be ended
        killed_at = 0.0
        for runs in range(12):
            pid = wait_for_fork_server(server, killed_at, runs + 1)
            with traced(pid):
                # The supervisor that waits gets the run, and the next one is asked for.
                stream = stack.enter_context(server.stream("sh", "-c", "echo $$; exec sleep 60"))
                int(stream.next_event()["data"])
                assert server.request("GET", "/models").status == 200  # so it has been asked
                server.signal(signal.SIGSTOP)
                before = len(children(pid))
            wait_for_children(pid, before + 1)
            killed_at = time.clock_gettime(time.CLOCK_BOOTTIME)
            os.kill(pid, signal.SIGKILL)
            wait_gone(pid)
            server.signal(signal.SIGCONT)


def wait_for_fork_server(server: Server, after: float, supervisors: int) -> int:
    """Return the fork server that was started ``after``, once there are so many supervisors."""
    found: list[int] = []

    def there() -> bool:
        # What the last one forked is a child of the server too, but older than its death.
        found[:] = [pid for pid in children(server.pid) if started_at(pid) > after + 0.02]
        orphans = len(children(server.pid)) - 1
        return len(found) == 1 and orphans + len(children(found[0])) == supervisors

    wait_until(there, f"a fork server and {supervisors} supervisors")
    wait_until(
        lambda: all(state(child) == "S" for child in children(found[0])),
        "the supervisor's report",
    )
    assert server.request("GET", "/models").status == 200  # so the report has been read
    return found[0]


def wait_for_children(pid: int, count: int) -> None:
    wait_until(lambda: len(children(pid)) == count, f"{count} children of {pid}")


def test_idle_supervisors_that_were_killed_are_not_used(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    server.run("true")
    for pid in supervisors(server):
        os.kill(pid, signal.SIGKILL)
        wait_gone(pid)
    assert exit_code(server.run("true")) == 0


@pytest.mark.slow
def test_two_thousand_runs_leave_no_descriptor_and_no_zombie(start_server: StartServer) -> None:
    server = start_server()

    def everything() -> tuple[int, int, int]:
        helpers = [fork_server(server), *supervisors(server)]
        fds = open_fds(server.pid) + sum(open_fds(pid) for pid in helpers)
        zombies = [pid for pid in descendants(server.pid) if state(pid) == "Z"]
        return len(helpers), fds, len(zombies)

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

    def run(count: int) -> None:
        for _ in range(count):
            connection.request(
                "POST", "/run", '{"cli": "true"}', {"Content-Type": "application/json"}
            )
            assert connection.getresponse().read() == b'{"type":"exit","code":0}\n'

    run(100)
    before = everything()
    assert before[2] == 0
    run(2000)
    assert everything() == before
    connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "isolation", ["subreaper", pytest.param("pidns", marks=pytest.mark.needs("pidns"))]
)
def test_a_run_outlives_the_servers_idle_threads(start_server: StartServer, isolation: str) -> None:
    """Trio's worker threads end after 10 idle seconds; PR_SET_PDEATHSIG would fire then."""
    server = start_server({"RUN_ISOLATION": isolation})
    with server.stream("sh", "-c", "sleep 12; echo done") as stream:
        assert text_of(stream.rest(), "stdout") == "done\n"


def test_process_group_isolation_says_what_it_does_not_cover(start_server: StartServer) -> None:
    server = start_server({"RUN_ISOLATION": "process-group", "RUN_KILL_GRACE_SECONDS": "0.3"})
    (warning,) = [line for line in server.log if "WARNING" in line]
    assert "outlives" in warning
    with server.stream("sh", "-c", "trap '' TERM; sleep 60 & echo $!; sleep 60") as stream:
        pid = int(stream.next_event()["data"])
    wait_gone(pid)
    assert exit_code(server.run("sh", "-c", "sleep 60 & exit 4")) == 4
    assert exit_code(server.run("no-such-cli")) == 127


@pytest.mark.parametrize(
    "isolation",
    ["subreaper", pytest.param("pidns", marks=pytest.mark.needs("pidns")), "process-group"],
)
def test_what_a_launch_has_to_clean_up_is_cleaned_up_before_the_end(
    start_server: StartServer, tmp_path: Path, isolation: str
) -> None:
    server = start_server({**SETTINGS, "RUN_ISOLATION": isolation}, module="cleanup_server")
    trace = tmp_path / "trace"
    script = 'test ! -e "$TRACE" && echo first; cat "$1"; exit 3'
    arguments = ("-c", script, "-", FILE_PATH)
    events = server.run("sh", *arguments, env={"TRACE": str(trace)})
    assert text_of(events, "stdout") == f"first\n{trace}"
    assert exit_code(events) == 3
    assert trace.read_text() == "111"


@pytest.mark.parametrize("event", ["disconnect", "kill"])
def test_it_is_cleaned_up_also_when_nobody_waits_for_it(
    start_server: StartServer, tmp_path: Path, event: str
) -> None:
    server = start_server(SETTINGS, module="cleanup_server")
    trace = tmp_path / "trace"
    arguments = ("-c", "echo $$; exec sleep 60", FILE_PATH)
    with server.stream("sh", *arguments, env={"TRACE": str(trace)}) as stream:
        pid = int(stream.next_event()["data"])
        if event == "kill":
            server.signal(signal.SIGKILL)
        else:
            stream.disconnect()
        wait_until(lambda: trace.exists() and trace.read_text() == "111", "the clean-up")
        assert not alive(pid)


def test_process_groups_do_without_what_macos_lacks() -> None:
    code = "import os, trio; del os.waitid; from codex_serve.cli.main import main; main()"
    env = {"CLI_LIST": "sh", "RUN_ISOLATION": "process-group"}
    with Server(env, command=[sys.executable, "-c", code]) as server:
        with server.stream("sh", "-c", "sleep 60 & echo $!; exec sleep 60") as stream:
            pid = int(stream.next_event()["data"])
        wait_gone(pid)
        assert exit_code(server.run("sh", "-c", "sleep 60 & exit 4")) == 4
