"""A large request takes its own memory, once, while it needs it, and nobody else's time."""

import http.client
import json

import pytest

from answers import check_error
from bodies import HUGE, MAX_BODY_BYTES, fill
from conftest import StartServer
from process_tree import memory_bytes, wait_until
from serving import TIMEOUT_S, Server, Stream

MIB = 1024 * 1024
JSON = {"Content-Type": "application/json"}

EMOJI = "😀".encode()
PROMPTS = {
    "plain": (b"", b"x"),
    "lines": (b"", b"x" * 60 + b"\\n"),
    "an emoji": (EMOJI, b"x"),
    "an emoji and lines": (EMOJI, b"x" * 60 + b"\\n"),
    "all escapes": (b"", b"\\ud83d\\ude00"),
}


@pytest.fixture
def server(start_server: StartServer) -> Server:
    """One that has nothing of other tests in its memory."""
    server = start_server({"CLI_LIST": "sh,cat,sleep,true"})
    server.run("true")
    return server


def prompt_body(script: str, start: bytes, part: bytes) -> bytes:
    head = b'{"cli": "sh", "args": ["-c", %b], "stdin": "' % json.dumps(script).encode()
    return fill((head + start, part, b'"}'))


def begin(server: Server, body: bytes) -> Stream:
    """Send a request, and wait for its first event."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    connection.request("POST", "/run", body, JSON)
    stream = Stream(connection)
    stream.next_event()
    return stream


def high_water(server: Server) -> int:
    """The most resident memory that the server has ever had, in bytes."""
    with open(f"/proc/{server.pid}/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("text", PROMPTS.values(), ids=PROMPTS.keys())
def test_an_unread_prompt_is_held_once_and_freed_at_once(
    server: Server, text: tuple[bytes, bytes]
) -> None:
    body = prompt_body("echo go; exec sleep 60", *text)
    assert MAX_BODY_BYTES - 100 < len(body) <= MAX_BODY_BYTES
    before = memory_bytes(server.pid)
    for _ in range(3):  # the C library learns from what is freed
        stream = begin(server, body)
        assert memory_bytes(server.pid) - before > 12 * MIB  # the control
        assert high_water(server) - before < 1.2 * MAX_BODY_BYTES
        stream.disconnect()
        wait_until(lambda: memory_bytes(server.pid) - before < 4 * MIB, "the memory's return")


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["cat > /dev/null; echo read; sleep 60", "exec <&-; echo closed; sleep 60"]
)
def test_a_prompt_that_nobody_can_read_any_more_is_freed_though_the_run_goes_on(
    server: Server, script: str
) -> None:
    before = memory_bytes(server.pid)
    stream = begin(server, prompt_body(script, b"", b"x"))
    wait_until(lambda: memory_bytes(server.pid) - before < 4 * MIB, "the memory's return")
    stream.disconnect()


@pytest.mark.slow
@pytest.mark.parametrize("body", [*HUGE.values(), b"["], ids=[*HUGE.keys(), "not even JSON"])
def test_what_no_process_can_take_costs_others_nothing(server: Server, body: bytes) -> None:
    before = memory_bytes(server.pid)
    for _ in range(2):
        answer = server.post(body)
        assert answer.status in (400, 422)
        assert server.request("GET", "/models").status == 200
    assert high_water(server) - before < 1.2 * MAX_BODY_BYTES
    wait_until(lambda: memory_bytes(server.pid) - before < 4 * MIB, "the memory's return")


@pytest.mark.slow
def test_a_body_whose_sender_leaves_in_the_middle_is_freed_at_once(server: Server) -> None:
    before = memory_bytes(server.pid)
    for _ in range(3):
        with server.connect() as connection:
            head = "POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES)
            connection.sendall(b" " * (MAX_BODY_BYTES - 1))
            wait_until(lambda: memory_bytes(server.pid) - before > 12 * MIB, "the body")
        wait_until(lambda: memory_bytes(server.pid) - before < 4 * MIB, "the memory's return")
    assert high_water(server) - before < 1.2 * MAX_BODY_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("escape", [True, False])
def test_a_long_prompt_arrives_whole(server: Server, escape: bool) -> None:
    text = "".join(f'{number} ä€😀\n\0\\"' for number in range(150_000))
    body = json.dumps({"cli": "cat", "stdin": text}, ensure_ascii=escape).encode()
    events = server.post(body).events
    assert "".join(event["data"] for event in events[:-1]) == text
    assert events[-1] == {"type": "exit", "code": 0}


def test_a_refusal_says_what_was_wrong(server: Server) -> None:
    assert "it is empty" in check_error(server.post(b""), 400, "malformed_json")
    detail = check_error(server.post(b'{"cli": "sh", "args": "x"}'), 422, "invalid_request")
    assert "'args' must be a list of strings, not a string" in detail
    detail = check_error(server.post(HUGE["empty arguments"]), 422, "invalid_request")
    assert "no process can be given more" in detail


def test_all_that_a_process_can_take_is_taken(server: Server) -> None:
    events = server.run("sh", "-c", "echo $#", *[""] * 100_000, env={"LONG": "x" * 100_000})
    assert events[0] == {"type": "stdout", "data": "99999\n"}
