"""Nothing that the server lacks for a while ends it, and no error of one run does.

After each lack the server answers, every stream has ended with one ``exit`` or was
visibly cut, and when the lack is over, runs work and nothing is left.
"""

import http.client
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import faults
from codex_serve.processes.pool import MAX_IDLE
from conftest import StartServer
from process_tree import alive, children, marked, open_fds, wait_gone, wait_until
from serving import Server, exit_code, text_of

SETTINGS = {"RUN_KILL_GRACE_SECONDS": "0.1"}
SCRIPT = 'setsid sh -c "sleep 60; true" $0 & echo out'
LONG = {"LONG": "x" * 20_000}
"""A variable that has the message to the supervisor take the way through a file."""


def ending(server: Server, *args: str) -> int | None:
    """The exit code of a run; ``None`` where it was refused in our words or visibly cut."""
    try:
        answer = server.post({"cli": "sh", "args": args, "env": LONG})
    except (http.client.HTTPException, ConnectionError):
        return None
    if answer.status != 200:
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        return None
    return exit_code(answer.events)


def supervisors(server: Server) -> list[int]:
    """Those that wait or work, whoever is their parent."""
    # What is below the server is its fork server, supervisors, and orphans of dead fork servers.
    below = children(server.pid)
    return [pid for parent in below for pid in children(parent)] + below[1:]


def kill_waiting_supervisors(server: Server) -> None:
    """So that the next run needs a new one. There are no runs."""
    for pid in supervisors(server):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_gone(pid)


def check_recovered(server: Server, marker: str) -> None:
    """The lack is over: runs work, and nothing of those before is left."""
    assert server.request("GET", "/models").status == 200
    wait_until(lambda: ending(server, "-c", "exit 3") == 3, "a run that works")
    wait_until(lambda: not marked(marker), "the end of what the runs started")


def rest_of_fds(server: Server) -> int:
    """How many descriptors the server has beside those of its supervisors."""
    return open_fds(server.pid) - len(supervisors(server))


def use_all_supervisors(server: Server) -> None:
    """Those of which nobody has noticed that they were killed are noticed then."""
    with ExitStack() as stack:
        for _ in range(MAX_IDLE + 1):
            stream = stack.enter_context(server.stream("sh", "-c", "echo; exec sleep 60"))
            stream.next_event()


@contextmanager
def limited(kind: int, limit: int, *pids: int) -> Iterator[None]:
    before = [resource.prlimit(pid, kind) for pid in pids]
    for pid, (_, hard) in zip(pids, before, strict=True):
        resource.prlimit(pid, kind, (limit, hard))
    try:
        yield
    finally:
        for pid, limits in zip(pids, before, strict=True):
            with suppress(ProcessLookupError):
                resource.prlimit(pid, kind, limits)


@pytest.mark.slow
def test_eight_runs_at_once_with_room_for_few_descriptors(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    marker = secrets.token_hex(8)
    before = rest_of_fds(server)
    seen: set[int | None] = set()
    for room in range(1, 42, 4):
        kill_waiting_supervisors(server)
        with (
            limited(resource.RLIMIT_NOFILE, open_fds(server.pid) + room, server.pid),
            ThreadPoolExecutor(8) as pool,
        ):
            seen |= set(pool.map(lambda _: ending(server, "-c", SCRIPT, marker), range(8)))
        check_recovered(server, marker)
    assert {0, 125} <= seen <= {0, 125, None}
    use_all_supervisors(server)
    wait_until(lambda: rest_of_fds(server) == before, "the descriptors of before")


@pytest.mark.slow
def test_helpers_with_room_for_few_descriptors(start_server: StartServer) -> None:
    server = start_server(SETTINGS)
    marker = secrets.token_hex(8)
    seen: set[int | None] = set()
    for room in range(8):
        (fork_server,) = children(server.pid)
        kill_waiting_supervisors(server)
        with limited(resource.RLIMIT_NOFILE, open_fds(fork_server) + room, fork_server):
            seen |= {ending(server, "-c", SCRIPT, marker) for _ in range(2)}
        kill_waiting_supervisors(server)  # they have the limit
        check_recovered(server, marker)
    assert {0, 125} <= seen <= {0, 125}


@pytest.mark.slow
@pytest.mark.needs("root")
def test_a_fork_server_that_dies_when_no_more_processes_can_be_made(
    start_server: StartServer,
) -> None:
    """Another user than root, for whom the limit counts, and who can read what root can."""
    capability = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", *capability]
    server = start_server(SETTINGS, prefix=user)
    marker = secrets.token_hex(8)
    (fork_server,) = children(server.pid)
    pids = [server.pid, *children(fork_server)]

    def limit(processes: str) -> None:
        for pid in pids:
            limit = ["prlimit", f"--pid={pid}", f"--nproc={processes}:"]
            subprocess.run([*user, *limit], check=True)

    limit("0")
    os.kill(fork_server, signal.SIGKILL)
    server.wait_for_log("running the fork server failed, and is tried again")
    answer = server.post({"cli": "sh", "args": ["-c", SCRIPT, marker]})
    assert exit_code(answer.events) == 125
    assert "Resource temporarily unavailable" in text_of(answer.events, "stderr")
    assert server.request("GET", "/models").status == 200
    limit("1000")
    check_recovered(server, marker)


@pytest.mark.slow
def test_a_stop_with_no_descriptor_left_is_a_stop(start_server: StartServer) -> None:
    server = start_server({**SETTINGS, "SHUTDOWN_GRACE_SECONDS": "0.1"})
    with server.stream("sh", "-c", "echo $$; exec sleep 60") as stream:
        pid = int(stream.next_event()["data"])
        helpers = [*children(server.pid), *supervisors(server)]
        with limited(resource.RLIMIT_NOFILE, 3, server.pid, *helpers):
            server.signal(signal.SIGTERM)
            assert exit_code(stream.rest()) == 143
            assert server.process.wait(30) == 0
        assert not alive(pid)
        for helper in helpers:
            wait_gone(helper)


def fake_docker(folder: Path, script: str) -> dict[str, str]:
    """The settings of Docker mode with a client that is a script."""
    client = folder / "bin" / "docker"
    client.parent.mkdir()
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    return {
        **SETTINGS,
        "PATH": f"{client.parent}:{os.environ['PATH']}",
        "CODEX_DOCKER_IMAGE": "image",
        "DOCKER_LEASE_DIR": str(folder / "leases"),
    }


AWAY = 'echo "Cannot connect to the Docker daemon" >&2; test "$1" != run || exit 125; exit 1'


@pytest.mark.slow
def test_an_engine_that_is_away_and_a_temporary_folder_that_is_gone(
    start_server: StartServer, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    server = start_server({**fake_docker(tmp_path, AWAY), "TMPDIR": str(temporary)})
    shutil.rmtree(temporary)
    events = server.run("sh")
    assert "The server cannot reach its container engine" in text_of(events, "stderr")
    assert exit_code(events) == 125
    assert server.request("GET", "/models").status == 200


@pytest.mark.slow
def test_removals_while_the_engine_is_away_wait_for_one_another(
    start_server: StartServer, tmp_path: Path
) -> None:
    calls = tmp_path / "calls"
    gone = f'test ! -e "{tmp_path}/up" || {{ echo "No such container" >&2; exit 1; }}\n'
    record = f'test "$1" != rm || echo "$@" >>"{calls}"\n'
    server = start_server(fake_docker(tmp_path, record + gone + AWAY))
    with ThreadPoolExecutor(9) as pool:
        for _ in range(2):
            codes = list(pool.map(lambda _: exit_code(server.run("sh")), range(9)))
            assert codes == [125] * 9
    assert len(supervisors(server)) <= 12
    (tmp_path / "up").touch()
    names = {line.split()[-1] for line in calls.read_text().splitlines()}
    assert len(names) == 18
    calls.write_text("")
    wait_until(
        lambda: names <= {line.split()[-1] for line in calls.read_text().splitlines()},
        "a removal of each container",
    )
    (tmp_path / "up").unlink()
    server.signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    server._reader.join()
    left = [line for line in server.log if "could not remove what a run has left" in line]
    assert left
    assert all("the next start of a server removes it" in line for line in left)


@pytest.mark.parametrize("when", ["before", "group"])
def test_what_is_raised_before_the_head_is_one_json_line(
    start_server: StartServer, when: str
) -> None:
    server = start_server(module="failing_server")
    for _ in range(2):
        answer = server.post({"cli": "sh", "env": {"WHEN": when}})
        assert answer.status == 500
        assert answer.headers["Content-Type"] == "application/json"
        assert answer.error["code"] == "internal_error"
    server.wait_for_log("UnexpectedError")


@pytest.mark.slow
def test_what_is_raised_behind_the_head_cuts_the_stream(start_server: StartServer) -> None:
    server = start_server(SETTINGS, module="failing_server")
    with server.stream("sh", "-c", "echo $$; exec sleep 60", env={"WHEN": "after"}) as stream:
        pid = int(stream.next_event()["data"])
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            stream.rest()
        wait_gone(pid)
    assert server.request("GET", "/models").status == 200


def just_run(server: Server, marker: str) -> int | None:
    kill_waiting_supervisors(server)
    return ending(server, "-c", SCRIPT, marker)


def run_without_fork_server(server: Server, marker: str) -> int | None:
    kill_waiting_supervisors(server)
    for pid in children(server.pid):
        os.kill(pid, signal.SIGKILL)
    return ending(server, "-c", SCRIPT, marker)


def lose_all_helpers(server: Server, marker: str) -> int | None:
    with server.stream("sh", "-c", f"{SCRIPT}; exec sleep 60", marker, env=LONG) as stream:
        try:
            if stream.status == 200 and "exit" not in stream.next_event().values():
                for pid in [*supervisors(server), *children(server.pid)]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            events = stream.rest()
        except (http.client.HTTPException, ConnectionError, AssertionError):
            return None
    return exit_code(events) if events else 125


FAULTS: dict[Callable[[Server, str], int | None], tuple[tuple[str, str, str], ...]] = {
    just_run: (
        ("server", "pipe2", "EMFILE"),
        ("server", "socketpair", "ENFILE"),
        ("server", "memfd_create", "EMFILE"),
        ("server", "write", "ENOSPC"),
        ("server", "sendmsg", "ENOBUFS"),
        ("server", "sendmsg", "ETOOMANYREFS"),
        ("server", "recvmsg", "ENOMEM"),
        ("helpers", "pipe2", "EMFILE"),
        ("helpers", "recvmsg", "EMFILE"),
        ("helpers", "send", "ENOBUFS"),
        ("helpers", "pread", "ENOMEM"),
        ("helpers", "fork", "EAGAIN"),
        ("helpers", "posix_spawn", "EAGAIN"),
        ("helpers", "posix_spawn", "ENOMEM"),
        ("helpers", "listdir", "EMFILE"),
        ("helpers", "open", "ENFILE"),
    ),
    run_without_fork_server: (
        ("server", "socketpair", "EMFILE"),
        ("server", "Popen", "EAGAIN"),
        ("server", "prlimit", "EPERM"),
        ("server", "listdir", "EMFILE"),
        ("server", "open", "ENOMEM"),
    ),
    lose_all_helpers: (
        ("server", "listdir", "EMFILE"),
        ("server", "open", "ENFILE"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "who", "call", "name"),
    [(scenario, who, call, name) for scenario, rows in FAULTS.items() for who, call, name in rows],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_call_that_fails_costs_one_run_at_most(
    faulty_server: tuple[Server, str, int],
    scenario: Callable[[Server, str], int | None],
    who: str,
    call: str,
    name: str,
) -> None:
    server, path, before = faulty_server
    marker = secrets.token_hex(8)

    def fails(count: int) -> bool:
        """Whether there is a call to fail that comes so late."""
        faults.arm(path, f"{who} {call} {name} {count}")
        scenario(server, marker)
        met = Path(path).read_text() == ""
        faults.arm(path, "")
        check_recovered(server, marker)
        return met

    # Not before it knows that a fork server has died does the server look for orphans.
    count = 1
    while fails(count) or (scenario is lose_all_helpers and fails(count)):
        count += 1
    use_all_supervisors(server)
    wait_until(lambda: rest_of_fds(server) == before, "the descriptors of before")
    assert count > 1, "it never failed"


@pytest.fixture(scope="module")
def faulty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, int]]:
    """A server that all tests of failing calls share, because none of them may end it."""
    path = str(tmp_path_factory.mktemp("faults") / "plan")
    faults.arm(path, "")
    env = {**SETTINGS, "CLI_LIST": "sh", "FAULTS": path}
    with Server(env, command=[sys.executable, "-m", "faulty_server"]) as server:
        yield server, path, rest_of_fds(server)
