"""Who watches a command is watched too.

A command runs as the same user as its supervisor and the fork server, so it can
stop, trace and change them. Nothing outlives its run for that, no other run is
kept waiting, and no later one finds what was changed.
"""

import http.client
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

import tracer
from battery import SETTINGS, fork_server, supervisors
from conftest import StartServer
from needs import make_cgroup
from process_tree import alive, descendants, wait_gone
from serving import Server, Stream, exit_code, text_of
from tracer import traced

TRACER = tracer.__file__
LIMIT = {**SETTINGS, "RUN_RESPONSE_TIMEOUT_SECONDS": "3"}

Ending = Callable[[Server, Stream], None]


def disconnect(server: Server, stream: Stream) -> None:
    stream.disconnect()


def time_out(server: Server, stream: Stream) -> None:
    assert exit_code(stream.rest()) == 124


def terminate_server(server: Server, stream: Stream) -> None:
    server.signal(signal.SIGTERM)
    assert exit_code(stream.rest()) == 143


def only_terminate_server(server: Server, stream: Stream) -> None:
    """Where a supervisor is to be killed, the server does not wait to say so: the stream is cut."""
    server.signal(signal.SIGTERM)


def kill_server(server: Server, stream: Stream) -> None:
    server.signal(signal.SIGKILL)


ENDINGS = pytest.mark.parametrize(
    "ending",
    [disconnect, time_out, terminate_server, kill_server],
    ids=lambda ending: ending.__name__,
)
ISOLATIONS = pytest.mark.parametrize(
    "isolation", ["subreaper", pytest.param("pidns", marks=pytest.mark.needs("pidns"))]
)


def settings_for(ending: Ending) -> dict[str, str]:
    return LIMIT if ending is time_out else SETTINGS


def helpers(server: Server) -> list[int]:
    return [fork_server(server), *supervisors(server)]


@contextmanager
def all_ends(server: Server, ending: Ending, stream: Stream, command: int) -> Iterator[None]:
    """See the command end, and all helpers where the server does, else that it goes on."""
    helping = helpers(server)
    ending(server, stream)
    yield
    wait_gone(command)
    if ending in (disconnect, time_out):
        assert exit_code(server.run("sh", "-c", "exit 7")) == 7
    else:
        for pid in helping:
            wait_gone(pid)


# The name of no process here has a space.
GRANDPARENT = "read -r _ _ _ GRANDPARENT _ </proc/$PPID/stat"
STOPS = {
    "supervisor": "kill -STOP $PPID",
    "fork server": "kill -STOP $GRANDPARENT",
    "both": "kill -STOP $PPID $GRANDPARENT",
}
STOPPING = pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)


@pytest.mark.slow
@ENDINGS
@STOPPING
def test_who_stops_its_watchers_does_not_outlive_its_run(
    start_server: StartServer, ending: Ending, stop: str
) -> None:
    server = start_server(settings_for(ending))
    script = f"{GRANDPARENT}; {stop}; echo $$; exec sleep 60"
    with (
        server.stream("sh", "-c", script) as stream,
        all_ends(server, ending, stream, int(stream.next_event()["data"])),
    ):
        pass


@STOPPING
def test_who_has_stopped_its_watchers_may_exit_by_itself(server: Server, stop: str) -> None:
    assert exit_code(server.run("sh", "-c", f"{GRANDPARENT}; {stop}; exit 3")) == 3


def test_runs_start_after_one_has_stopped_the_fork_server(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    script = f"{GRANDPARENT}; {STOPS['fork server']}; echo $$; exec sleep 60"
    with ExitStack() as streams:
        for _ in range(5):  # each needs a new supervisor
            stream = streams.enter_context(server.stream("sh", "-c", script))
            assert alive(int(stream.next_event()["data"]))


@pytest.mark.slow
@ISOLATIONS
@STOPPING
def test_who_stops_its_watchers_again_and_again_does_not_outlive_its_run(
    start_server: StartServer, isolation: str, stop: str
) -> None:
    server = start_server({**SETTINGS, "RUN_ISOLATION": isolation})
    script = f"{GRANDPARENT}; echo $$; while :; do {stop}; done 2>&-"
    waiting = supervisors(server)
    with server.stream("sh", "-c", script) as stream:
        stream.next_event()
        pids = [pid for supervisor in waiting for pid in descendants(supervisor)]
        if isolation == "subreaper" and stop != STOPS["fork server"]:
            # It has its supervisor killed, and so itself.
            events = stream.rest()
            assert text_of(events, "stderr").startswith("The run's supervisor was killed")
            assert exit_code(events) == 125
        else:
            stream.disconnect()
        for pid in pids:
            wait_gone(pid)
    assert exit_code(server.run("sh", "-c", "exit 7")) == 7


@pytest.mark.slow
@pytest.mark.parametrize("ending", [disconnect, terminate_server, kill_server])
def test_who_stops_its_supervisor_when_it_is_to_end_does_not_outlive_its_run(
    start_server: StartServer, ending: Ending
) -> None:
    server = start_server(SETTINGS)
    script = (
        "trap 'while :; do kill -STOP $PPID; done 2>&-' TERM; echo $$; while :; do sleep 1; done"
    )
    with (
        server.stream("sh", "-c", script) as stream,
        all_ends(server, ending, stream, int(stream.next_event()["data"])),
    ):
        pass


def test_all_end_with_the_server_also_when_all_are_stopped(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    with server.stream("sh", "-c", "echo $$; exec sleep 60") as stream:
        pids = [int(stream.next_event()["data"]), *helpers(server)]
        for pid in (server.pid, *pids[1:]):
            os.kill(pid, signal.SIGSTOP)
        server.signal(signal.SIGKILL)
        for pid in pids:
            wait_gone(pid)


@pytest.mark.slow
@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("ending", [disconnect, time_out, only_terminate_server, kill_server])
def test_who_traces_its_supervisor_does_not_outlive_its_run(
    start_server: StartServer, ending: Ending
) -> None:
    # Long enough to have begun; the clock starts with the run.
    server = start_server({**SETTINGS, "RUN_RESPONSE_TIMEOUT_SECONDS": "8"})
    code = f"import os; print(os.getpid(), flush=True); exec(open({TRACER!r}).read())"
    with server.stream("python3", "-c", code, "parent") as stream:
        command = int(stream.read_until("traced").split()[0])
        with all_ends(server, ending, stream, command):
            pass


@pytest.mark.slow
@pytest.mark.needs("ptrace")
def test_a_fork_server_that_does_not_answer_is_replaced(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    with traced(fork_server(server)), ExitStack() as streams:
        pids = []
        for _ in range(3):  # the first takes the supervisor that waits
            stream = streams.enter_context(server.stream("sh", "-c", "echo $$; exec sleep 60"))
            pids.append(int(stream.next_event()["data"]))
        assert all(map(alive, pids))
    server.wait_for_log("the fork server does not answer: killed")


@pytest.mark.slow
@pytest.mark.needs("ptrace")
@pytest.mark.parametrize("ending", [time_out, terminate_server])
def test_a_run_that_waits_for_a_supervisor_is_ended_as_any_other(
    start_server: StartServer, ending: Ending
) -> None:
    server = start_server(settings_for(ending))
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    with (
        traced(fork_server(server)),
        server.stream("sh", "-c", "echo; exec sleep 60") as first,
        closing(connection),
    ):
        first.next_event()  # it has the supervisor that waited
        connection.request("POST", "/run", '{"cli": "true"}', {"Content-Type": "application/json"})
        assert server.request("GET", "/clis").status == 200  # the request has been read
        if ending is terminate_server:
            server.signal(signal.SIGTERM)
        stream = Stream(connection)
        assert exit_code(stream.rest()) == (124 if ending is time_out else 143)
        assert not [line for line in server.log if "does not answer" in line]


CHANGES = {
    "nofile": "prlimit --pid $WATCHER --nofile=64:64",
    "core": "prlimit --pid $WATCHER --core=1:1",
    "nice": "renice -n 19 -p $WATCHER",
    "scheduler": "chrt --batch -p 0 $WATCHER",
    "affinity": "taskset -cp $(taskset -cp $$ | grep -o '[0-9]*$') $WATCHER",
    "oom": "echo 900 >/proc/$WATCHER/oom_score_adj",
    "cgroup": "echo $WATCHER >$CGROUP/cgroup.procs",
}
SEEN = (
    "cat /proc/self/limits /proc/self/cgroup /proc/self/oom_score_adj; "
    "nice; chrt -p $$ | sed s/.*://; taskset -cp $$ | sed s/.*://"
)


@pytest.fixture
def new_cgroup() -> Iterator[Path]:
    cgroup = make_cgroup()
    yield cgroup
    for pid in (cgroup / "cgroup.procs").read_text().split():
        wait_gone(int(pid))
    cgroup.rmdir()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=pytest.mark.needs("cgroup") if change == "cgroup" else ())
        for change in CHANGES
    ],
)
@pytest.mark.parametrize("watcher", ["supervisor", "fork server"])
def test_what_a_run_has_changed_no_later_run_finds(
    start_server: StartServer, request: pytest.FixtureRequest, change: str, watcher: str
) -> None:
    env = {}
    if change == "cgroup":
        env["CGROUP"] = str(request.getfixturevalue("new_cgroup"))
    server = start_server({**SETTINGS, **env})
    whom = {"supervisor": "$PPID", "fork server": "$GRANDPARENT"}[watcher]
    script = f"set -e; {GRANDPARENT}; WATCHER={whom}; {{ {CHANGES[change]}; }} >&2; {SEEN}"
    before = text_of(server.run("sh", "-c", SEEN), "stdout")
    assert before
    events = server.run("sh", "-c", script)
    assert exit_code(events) == 0, events
    with ExitStack() as streams:
        for turn in range(3):  # two of them, at least, need a supervisor that is forked later
            stream = streams.enter_context(server.stream("sh", "-c", f"{SEEN}; echo .; sleep 60"))
            seen = stream.read_until(".\n")
            # One that was forked before the fork server was changed is as it was, too.
            assert seen == before + ".\n", turn


def test_a_supervisor_that_cannot_open_anything_any_more_leaves_nothing(
    start_server: StartServer,
) -> None:
    server = start_server(SETTINGS)
    script = "prlimit --pid $PPID --nofile=3:3; sleep 60 & echo $!"
    pid = int(text_of(server.run("sh", "-c", script), "stdout"))
    assert not alive(pid)
    assert exit_code(server.run("sh", "-c", "exit 7")) == 7


@pytest.fixture
def slow_path() -> Iterator[str]:
    """A PATH of which each entry takes the kernel milliseconds: nobody finds anything soon."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))  # short names, for many of them
    try:
        (folder / "d").mkdir()
        (folder / "0").symlink_to(folder)
        for turn in range(38):  # the kernel follows 40
            (folder / f"{turn + 1}").symlink_to("d/../" * 800 + str(turn))
        names = [f"{turn:x}_" for turn in range(5500)]
        for name in names:
            (folder / name).symlink_to("38")
        yield ":".join(f"{folder}/{name}" for name in names)
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
@ISOLATIONS
@ENDINGS
def test_who_looks_for_a_command_listens(
    start_server: StartServer, isolation: str, ending: Ending, slow_path: str
) -> None:
    server = start_server({**settings_for(ending), "RUN_ISOLATION": isolation})
    with server.stream("no-such-cli", env={"PATH": slow_path}) as stream:
        helping = helpers(server)
        ending(server, stream)
        server.signal(signal.SIGTERM)
        for pid in helping:
            wait_gone(pid)
    assert not [line for line in server.log if "supervisor" in line]


def test_a_command_is_looked_for_once_in_each_place(server: Server) -> None:
    events = server.run("no-such-cli", env={"PATH": ":" * 100_000})
    assert text_of(events, "stderr") == "no-such-cli: command not found on PATH\n"
    assert exit_code(events) == 127
