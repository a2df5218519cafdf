"""Clients that hold on, drip, vanish or come in crowds: each costs its own run only.

Whatever a client does, the run it started ends, what it held is free again,
and the server goes on and stops when told to.
"""

import http.client
import json
import os
import resource
import secrets
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from answers import check_error, raw
from conftest import StartServer
from process_tree import alive, descendants, wait_gone, wait_until
from serving import Answer, Event, Server, exit_code, refused_start, text_of

GET = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"
RUN = b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def start_run(connection: socket.socket, script: str) -> int:
    """Start a run and read no more than its first event; return the command's id."""
    body = json.dumps({"cli": "sh", "args": ["-c", f"echo $$; {script}"]}).encode()
    connection.sendall(RUN + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    with closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        return int(json.loads(response.readline())["data"].split()[0])


def ask(connection: socket.socket) -> int:
    """The status of one exchange on a connection that stays open."""
    connection.sendall(GET)
    with closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        response.read()
        return response.status


def answer_to(connection: socket.socket) -> Answer:
    """What the server says without being asked anything more."""
    with closing(http.client.HTTPResponse(connection)) as response:
        response.begin()
        return Answer(response.status, response.headers, response.read())


def sends_in_vain(connection: socket.socket, data: bytes) -> bool:
    """Send one more piece; return whether the connection turns out to be closed."""
    try:
        connection.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return True
    return False


def descriptors(server: Server) -> int:
    """What the server has open for clients and their runs.

    That is all but its sockets to supervisors, which wait for the next run.
    """
    links = []
    for name in os.listdir(f"/proc/{server.pid}/fd"):
        with suppress(FileNotFoundError):
            links.append(os.readlink(f"/proc/{server.pid}/fd/{name}"))
    rows = Path("/proc/net/unix").read_text().splitlines()[1:]
    local = {f"socket:[{row.split()[6]}]" for row in rows}
    return sum(link not in local for link in links)


def wait_free(server: Server, before: int) -> None:
    wait_until(lambda: descriptors(server) == before, f"{before} open descriptors")


@pytest.mark.slow
def test_a_client_that_never_reads_loses_its_run_and_frees_the_connection(
    start_server: StartServer,
) -> None:
    server = start_server({"WRITE_TIMEOUT_SECONDS": "1"})
    before = descriptors(server)
    with server.connect() as connection:
        wait_gone(start_run(connection, "exec cat /dev/zero"))
        wait_free(server, before)


@pytest.mark.slow
def test_a_client_that_drips_loses_its_run_and_frees_the_connection(
    start_server: StartServer, tmp_path: Path
) -> None:
    """Its machine takes a little again and again, but never a whole write within the time."""
    server = start_server({"WRITE_TIMEOUT_SECONDS": "1"})
    before = descriptors(server)
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        gate = tmp_path / "gate"
        script = f"until [ -e {gate} ]; do sleep 0.01; done; exec cat /dev/zero"
        pid = start_run(connection, script)
        gate.touch()

        def ended() -> bool:
            with suppress(ConnectionResetError):
                connection.recv(1024)
            return not alive(pid)

        wait_until(ended, "the end of the run")
        wait_free(server, before)


@pytest.mark.slow
def test_no_timeout_of_a_connection_ends_a_run_that_is_silent(start_server: StartServer) -> None:
    names = ("WRITE_TIMEOUT_SECONDS", "HEADER_TIMEOUT_SECONDS", "BODY_TIMEOUT_SECONDS")
    server = start_server(dict.fromkeys(names, "0.3"))
    events = server.run("sh", "-c", "echo first; sleep 2; echo last")
    assert text_of(events, "stdout") == "first\nlast\n"
    assert exit_code(events) == 0


@pytest.mark.slow
def test_sigterm_is_obeyed_while_clients_hold_on(start_server: StartServer, tmp_path: Path) -> None:
    """One does not read, one stays in the middle of a body, one in the middle of a head."""
    stuck = tmp_path / "stuck"
    server = start_server({"SHUTDOWN_GRACE_SECONDS": "0.3", "RUN_KILL_GRACE_SECONDS": "0.3"})
    code = (
        "import os, select, signal\n"
        "os.set_blocking(1, False)\n"
        "while select.select([], [1], [], 0.3)[1]: os.write(1, b'x' * 4096)\n"
        f"open({str(stuck)!r}, 'w').close()\n"
        "signal.pause()\n"
    )
    with (
        server.connect() as reader,
        server.connect() as body,
        server.connect() as head,
    ):
        pid = start_run(reader, f'exec python3 -c "{code}"')
        body.sendall(RUN + b"Content-Length: 100\r\n\r\n{")
        head.sendall(b"GET /models HTTP/1.1\r\nHo")
        wait_until(stuck.exists, "a write that nobody takes")
        server.signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        wait_gone(pid)


@pytest.mark.slow
def test_a_client_that_closes_its_half_ends_its_run(start_server: StartServer) -> None:
    server = start_server()
    before = descriptors(server)
    with server.connect() as connection:
        pid = start_run(connection, "exec sleep 60")
        connection.shutdown(socket.SHUT_WR)
        wait_gone(pid)
        wait_free(server, before)


@dataclass(frozen=True)
class FarMachine:
    """A network namespace, which is another machine as far as TCP is concerned.

    Attributes:
      name: of the namespace, and of our end of the wire to it.
      address: of our end.
    """

    name: str
    address: str

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Run a command over there."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command], stdout=subprocess.PIPE, text=True
        )

    def unplug(self) -> None:
        """From now on nothing comes from there, and nothing arrives."""
        ip("-netns", self.name, "link", "set", "eth0", "down")


def ip(*args: str) -> None:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(args)}: {done.stderr.strip()}"


@pytest.fixture
def far_machine() -> Iterator[FarMachine]:
    name = f"serve-{secrets.token_hex(4)}"
    number = secrets.randbelow(2**14)
    network = f"10.203.{number // 64}.{number % 64 * 4}"
    ours, theirs = (network.rpartition(".")[0] + f".{number % 64 * 4 + host}" for host in (1, 2))
    with ExitStack() as stack:
        ip("netns", "add", name)
        stack.callback(ip, "netns", "delete", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        stack.callback(ip, "link", "delete", name)
        ip("address", "add", f"{ours}/30", "dev", name)
        ip("link", "set", name, "up")
        ip("-netns", name, "address", "add", f"{theirs}/30", "dev", "eth0")
        ip("-netns", name, "link", "set", "eth0", "up")
        yield FarMachine(name, ours)


RUN_AND_STAY = """
import json, signal, socket, sys
address, port, *scripts = sys.argv[1:]
connections = []
for script in scripts:
    body = json.dumps({"cli": "sh", "args": ["-c", "echo $$; " + script]})
    connection = socket.create_connection((address, int(port)), 30)
    connection.sendall(
        b"POST /run HTTP/1.1\\r\\nHost: x\\r\\nContent-Type: application/json\\r\\n"
        b"Content-Length: %d\\r\\n\\r\\n%s" % (len(body), body.encode())
    )
    answer = connection.makefile("rb")
    event = json.loads(next(line for line in answer if line.startswith(b"{")))
    print(event["data"].split()[0], flush=True)
    connections.append((connection, answer))
signal.pause()
"""


@pytest.mark.slow
@pytest.mark.needs("netns")
def test_a_client_that_vanishes_without_a_word_loses_its_runs(
    start_server: StartServer, far_machine: FarMachine
) -> None:
    """One command is silent, one prints so little that no write ever waits."""
    server = start_server({"WRITE_TIMEOUT_SECONDS": "2"}, args=["--host", far_machine.address])
    before = descriptors(server)
    scripts = ("exec sleep 60", "while sleep 0.05; do echo x; done")
    arguments = [far_machine.address, str(server.port), *scripts]
    with far_machine.start(sys.executable, "-c", RUN_AND_STAY, *arguments) as client:
        try:
            assert client.stdout is not None
            pids = [int(client.stdout.readline()) for _ in scripts]
            far_machine.unplug()
        finally:
            client.kill()
    for pid in pids:
        wait_gone(pid)
    wait_free(server, before)


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", GET], ids=["from the start", "after an exchange"])
def test_a_connection_on_which_nothing_is_asked_is_closed(
    start_server: StartServer, first: bytes
) -> None:
    server = start_server({"HEADER_TIMEOUT_SECONDS": "0.5"})
    before = descriptors(server)
    with server.connect() as connection:
        if first:
            assert ask(connection) == 200
        assert connection.recv(1) == b""
        wait_free(server, before)


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", GET], ids=["from the start", "after an exchange"])
def test_a_head_that_drips_is_cut_off(start_server: StartServer, first: bytes) -> None:
    server = start_server({"HEADER_TIMEOUT_SECONDS": "0.5"})
    before = descriptors(server)
    with server.connect() as connection:
        if first:
            assert ask(connection) == 200
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: ")
        wait_until(lambda: sends_in_vain(connection, b"x"), "the end of the connection")
        wait_free(server, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "piece"),
    [(b"Content-Length: 1000000", b" "), (b"Transfer-Encoding: chunked", b"1\r\n \r\n")],
    ids=["with a length", "in chunks"],
)
def test_a_body_that_drips_is_408(start_server: StartServer, length: bytes, piece: bytes) -> None:
    server = start_server({"BODY_TIMEOUT_SECONDS": "0.5"})
    before = descriptors(server)
    with server.connect() as connection:
        connection.sendall(RUN + length + b"\r\n\r\n")

        def answered() -> bool:
            connection.sendall(piece)
            return select.select([connection], [], [], 0)[0] != []

        wait_until(answered, "the answer")
        answer = answer_to(connection)
        assert "0.5 s" in check_error(answer, 408, "request_timeout")
        assert answer.headers["Connection"] == "close"
    wait_free(server, before)


def test_a_body_that_stops_is_408_also_behind_another_request(start_server: StartServer) -> None:
    server = start_server({"BODY_TIMEOUT_SECONDS": "0.5"})
    before = descriptors(server)
    with server.connect() as connection:
        first = b'{"cli": "sh", "args": ["-c", "sleep 0.2"]}'
        connection.sendall(RUN + b"Content-Length: %d\r\n\r\n%s" % (len(first), first))
        connection.sendall(RUN + b"Content-Length: 1000\r\n\r\n{")
        with connection.makefile("rb") as responses:
            received = responses.read()
    answers = received.split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"200", b"408"]
    assert b'{"type":"exit","code":0}' in answers[0]
    assert b'"code":"request_timeout"' in answers[1]
    wait_free(server, before)


def test_a_body_that_no_view_takes_does_not_hold_up_the_connection(
    start_server: StartServer,
) -> None:
    """Its end may come before the answer has gone out, and then the connection goes on."""
    server = start_server({"HEADER_TIMEOUT_SECONDS": "1000"})
    went_on = 0
    for _ in range(100):
        with server.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(b"POST /models HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n ")
            connection.sendall(b" ")
            answer = answer_to(connection)
            check_error(answer, 405, "method_not_allowed")
            if "Connection" not in answer.headers:
                went_on += ask(connection) == 200
    assert went_on > 0


@pytest.mark.slow
def test_a_body_that_goes_on_after_its_answer_is_cut_off(start_server: StartServer) -> None:
    """For a while it is taken in, so that the client can read what was said."""
    server = start_server()
    before = descriptors(server)
    with server.connect() as connection:
        connection.sendall(b"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
        answer = answer_to(connection)
        check_error(answer, 404, "not_found")
        assert answer.headers["Connection"] == "close"
        wait_until(lambda: sends_in_vain(connection, b" "), "the end of the connection")
        wait_free(server, before)


@pytest.mark.slow
def test_a_connection_beyond_the_limit_is_told_so_until_another_closes(
    start_server: StartServer,
) -> None:
    server = start_server({"MAX_CONNECTIONS": "3"})
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(3)]
        refusal = raw(server, GET)
        assert "MAX_CONNECTIONS" in check_error(refusal, 503, "too_many_connections")
        assert refusal.headers["Connection"] == "close"
        assert [ask(connection) for connection in connections] == [200, 200, 200]
        connections[0].close()
        wait_until(lambda: raw(server, GET).status == 200, "room for another connection")
        assert [ask(connection) for connection in connections[1:]] == [200, 200]


@pytest.mark.slow
def test_those_turned_away_hold_nothing(start_server: StartServer) -> None:
    server = start_server({"MAX_CONNECTIONS": "1"})
    before = descriptors(server)
    with server.connect() as connection, ExitStack() as stack:
        assert ask(connection) == 200
        for _ in range(100):
            stack.enter_context(server.connect())
        wait_free(server, before + 1)
        assert ask(connection) == 200


@pytest.mark.slow
def test_all_connections_may_come_from_one_address(start_server: StartServer) -> None:
    server = start_server({"MAX_CONNECTIONS": "200"})
    with ExitStack() as stack:
        connections = [stack.enter_context(server.connect()) for _ in range(200)]
        assert {ask(connection) for connection in connections} == {200}
        check_error(raw(server, GET), 503, "too_many_connections")


@pytest.mark.slow
def test_a_command_that_no_descriptor_is_left_for_is_125_in_words(
    start_server: StartServer,
) -> None:
    """A long one needs a seventh, beside the six of its pipes."""
    prompt = "x" * 1_000_000  # too much for the pipe, which so stays open
    server = start_server()
    with server.connect() as connection:

        def run(argument: str) -> Sequence[Event]:
            request = {"cli": "sh", "args": ["-c", "true", argument], "stdin": prompt}
            body = json.dumps(request).encode()
            connection.sendall(RUN + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            return answer_to(connection).events

        run("x")
        # The fork server, the supervisor of that run, and the one that waits besides.
        wait_until(lambda: len(descendants(server.pid)) == 3, "the next supervisor")
        assert ask(connection) == 200
        used = set(map(int, os.listdir(f"/proc/{server.pid}/fd")))
        free = [fd for fd in range(1000) if fd not in used]
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (free[6], hard))
        assert exit_code(run("x")) == 0
        events = run("x" * 100_000)
        assert "Too many open files" in text_of(events, "stderr")
        assert exit_code(events) == 125
        assert exit_code(run("x")) == 0


def test_idle_connections_do_not_disturb_a_run(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    gate = tmp_path / "gate"
    script = f"n=0; while ! [ -e {gate} ]; do n=$((n+1)); echo $n; sleep 0.01; done"
    with server.stream("sh", "-c", script) as stream, ExitStack() as stack:
        seen = stream.read_until("1\n")
        connections = [stack.enter_context(server.connect()) for _ in range(50)]
        for connection in connections[::2]:
            connection.sendall(b"GET /models HTTP/1.1\r\n")  # half of a head
        seen += stream.read_until("\n")
        gate.touch()
        events = stream.rest()
        assert exit_code(events) == 0
        numbers = (seen + text_of(events, "stdout")).split()
        assert numbers == [str(n + 1) for n in range(len(numbers))]
        for connection in connections[1::2]:
            assert ask(connection) == 200


def limited(option: str) -> list[str]:
    """A command's prefix under which ``ulimit`` was called."""
    return ["sh", "-c", f'ulimit {option}; exec "$@"', "-"]


@pytest.mark.slow
def test_a_limit_of_files_that_connections_could_reach_is_refused_at_start() -> None:
    line = refused_start(env={"MAX_CONNECTIONS": "1000"}, prefix=limited("-n 150"))
    assert line.startswith("codex-serve: MAX_CONNECTIONS must be at most ")
    assert "not 1000" in line
    assert "150 files" in line


@pytest.mark.slow
def test_too_low_a_limit_of_files_for_any_connection_says_what_is_needed() -> None:
    line = refused_start(prefix=limited("-n 60"))
    assert "must be able to open at least 110 files here, not 60" in line


def test_without_a_number_the_limit_of_files_sets_it_with_a_warning(
    start_server: StartServer,
) -> None:
    server = start_server(prefix=limited("-n 150"))
    (warning,) = [line for line in server.log if "WARNING" in line]
    assert "MAX_CONNECTIONS is 5" in warning
    assert server.request("GET", "/models").status == 200


@pytest.mark.slow
def test_what_fits_the_limit_of_files_can_be_used_to_the_full(start_server: StartServer) -> None:
    server = start_server({"MAX_CONNECTIONS": "5"}, prefix=limited("-n 150"))
    with ExitStack() as stack:
        script = "echo started; exec sleep 60"
        streams = [stack.enter_context(server.stream("sh", "-c", script)) for _ in range(5)]
        for stream in streams:
            assert stream.next_event() == {"type": "stdout", "data": "started\n"}
        check_error(raw(server, GET), 503, "too_many_connections")
    wait_until(lambda: raw(server, GET).status == 200, "room for another connection")


@pytest.mark.slow
def test_the_limit_of_files_is_raised_for_the_server_and_not_for_commands(
    start_server: StartServer,
) -> None:
    server = start_server({"MAX_CONNECTIONS": "50"}, prefix=limited("-S -n 200"))
    soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    assert soft > 200
    events = server.run("sh", "-c", "ulimit -S -n; ulimit -H -n")
    assert text_of(events, "stdout").split()[0] == "200"
    assert hard == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
