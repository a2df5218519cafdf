"""Hostile packets: each is answered or dropped, and costs nobody else anything.

Real bytes on real sockets. Each packet of ``PACKETS`` is sent once to one
server, beside a run whose child prints a number whenever it is told to; then
one test for each promise looks at what came of it. ``KILLERS`` are those that
end a stock hypercorn, which a control shows.
"""

import http.client
import io
import json
import os
import random
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hpack import Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codex_serve.server.http1 import MAX_PIPELINED_BYTES
from codex_serve.server.incoming import MAX_FRAMING_BYTES, MAX_HEAD_BYTES, MAX_HEADERS
from conftest import TOOLS
from process_tree import alive, wait_gone, wait_until
from serving import TIMEOUT_S, Answer, Event, Server, Stream, exit_code, text_of

MODELS = b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n"
CLIS = b"GET /clis HTTP/1.1\r\nHost: x\r\n\r\n"
HELLO = {"cli": "cat", "stdin": "hello\n"}
SILENT = {"cli": "sh", "args": ["-c", "echo $$; exec sleep 60"]}
MEGABYTE = {"cli": "sh", "args": ["-c", "head -c 1000000 /dev/zero | tr '\\0' x"]}


# Requests


def get(*headers: bytes, path: bytes = b"/models", version: bytes = b"1.1") -> bytes:
    lines = [b"GET %s HTTP/%s" % (path, version), b"Host: x", *headers, b"", b""]
    return b"\r\n".join(lines)


def post_head(*headers: bytes, version: bytes = b"1.1") -> bytes:
    lines = [b"POST /run HTTP/" + version, b"Host: x", b"Content-Type: application/json"]
    return b"\r\n".join([*lines, *headers, b"", b""])


def post(body: Mapping[str, Any], *headers: bytes, version: bytes = b"1.1") -> bytes:
    data = json.dumps(body).encode()
    return post_head(b"Content-Length: %d" % len(data), *headers, version=version) + data


def chunked(body: bytes) -> bytes:
    return post_head(b"Transfer-Encoding: chunked") + body


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


# HTTP/2, by hand

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, END_HEADERS = "END_STREAM", "END_HEADERS"


def http2(*frames: Frame) -> bytes:
    return PREFACE + SettingsFrame(0).serialize() + join(frames)


def join(frames: Sequence[Frame]) -> bytes:
    return b"".join(frame.serialize() for frame in frames)


def h2_request(
    stream_id: int = 1,
    flags: Sequence[str] = (END_STREAM, END_HEADERS),
    **pseudo_headers: bytes | None,
) -> HeadersFrame:
    """A request for /models; ``None`` leaves a pseudo-header out."""
    fields = {"method": b"GET", "scheme": b"http", "authority": b"x", "path": b"/models"}
    pairs = [
        (b":" + name.encode(), value)
        for name, value in (fields | pseudo_headers).items()
        if value is not None
    ]
    # A fresh encoder for each, and nothing in its table: the frames stand alone.
    frame = HeadersFrame(stream_id, Encoder().encode(pairs, huffman=False))
    for flag in flags:
        frame.flags.add(flag)
    return frame


def rapid_resets(count: int) -> list[Frame]:
    frames: list[Frame] = []
    for stream_id in range(1, 2 * count, 2):
        frames += [h2_request(stream_id), RstStreamFrame(stream_id, error_code=8)]
    return frames


# Packets


@dataclass(frozen=True)
class Packet:
    """What is sent, and the status of the answer.

    Attributes:
      status: ``None`` where the server may also hang up or wait for more.
      late: sent when the first bytes of an answer have come.
    """

    name: str
    data: bytes
    status: int | None = 400
    late: bytes = b""

    def __str__(self) -> str:
        return self.name


WEBSOCKET = (
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)


def h2c(settings: bytes) -> tuple[bytes, ...]:
    return (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: " + settings,
    )


KILLERS = [
    Packet("websocket upgrade with a trailing byte", get(*WEBSOCKET) + b"x", 200),
    Packet("h2c upgrade with odd settings", get(*h2c(b"AAMAA")), 200),
    Packet("h2 with a path beyond ASCII", http2(h2_request(path=b"/\xff")), 505),
    Packet("h2 with a method beyond ASCII", http2(h2_request(method=b"G\xc3\x89T")), 505),
    Packet("h2 without a path", http2(h2_request(method=b"CONNECT", scheme=None, path=None)), 505),
    Packet(
        "h2 with data after an early reply",
        http2(h2_request(method=b"POST", path=b"/nope", flags=[END_HEADERS])),
        505,
        late=join([DataFrame(1, b"x" * 10), PingFrame(0)]),
    ),
    Packet(
        "h2 with 2000 priority frames",
        http2(*(PriorityFrame(2 * n + 1, depends_on=0, stream_weight=1) for n in range(2000))),
        505,
    ),
]

HTTP2 = [
    Packet("h2 preface", PREFACE, 505),
    Packet("h2 request", http2(h2_request()), 505),
    Packet("h2 with 500 rapid resets", http2(*rapid_resets(500)), 505),
    Packet("h2 preface cut short", b"PRI * HTTP/2.0\r\n", None),
    Packet("h2c upgrade", get(*h2c(b"AAMAAABkAAQAoAAAAAIAAAAA")), 200),
    Packet("h2c upgrade and its preface", get(*h2c(b"AAMAAABk")) + http2(), 200),
    Packet("h2c upgrade without settings", get(b"Connection: Upgrade", b"Upgrade: h2c"), 200),
    Packet("h2c upgrade on /run", post(HELLO, *h2c(b"AAMAAABk")), 200),
    Packet("h2 preface behind a request", MODELS + http2(h2_request()), 200),
]

UPGRADES = [
    Packet("websocket upgrade on /models", get(*WEBSOCKET), 200),
    Packet("websocket upgrade on /run", get(*WEBSOCKET, path=b"/run"), 405),
    Packet("websocket upgrade on nothing", get(*WEBSOCKET, path=b"/nope"), 404),
    Packet("websocket upgrade by POST", post(HELLO, *WEBSOCKET), 200),
    Packet("websocket upgrade without a key", get(*WEBSOCKET[:2]), 200),
    Packet("websocket upgrade and a frame", get(*WEBSOCKET) + b"\x81\x85\0\0\0\0hello", 200),
    Packet("tls upgrade", get(b"Connection: Upgrade", b"Upgrade: TLS/1.2"), 200),
    Packet("CONNECT", b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n\x16\x03\x01", 501),
    Packet("CONNECT of a path", b"CONNECT /run HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01", 501),
]


def client_hello() -> bytes:
    sent = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="localhost").do_handshake()
    return sent.read()


GARBAGE = [
    *(
        Packet(f"{size} random bytes", random.Random(size).randbytes(size), None)
        for size in (1, 7, 100, 1000, 10_000, 100_000, 1_000_000)
    ),
    Packet("random bytes as lines", random.Random(0).randbytes(5000) + b"\r\n\r\n"),
    Packet("random bytes behind a request", MODELS + random.Random(1).randbytes(5000), 200),
    Packet("nothing", b"", None),
    Packet("TLS client hello", client_hello()),
    Packet("SSH greeting", b"SSH-2.0-OpenSSH_9.9\r\n", None),
    Packet("PROXY protocol 1", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + MODELS),
    Packet("PROXY protocol 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)),
    Packet("NUL bytes", bytes(100_000)),
    Packet("line ends", b"\r\n" * 50_000, None),
    Packet("bare line feeds only", b"\n" * 50_000, None),
    Packet("line ends before a request", b"\r\n" * 3 + MODELS, 200),
    Packet("line feeds before a request", b"\n\n" + MODELS, 200),
    Packet("a line end between requests", post(HELLO) + b"\r\n" + MODELS, 200),
    Packet("a space before a request", b" " + MODELS),
    Packet("a request cut short", MODELS[:-2], None),
    Packet("HTTP/0.9", b"GET /models\r\n\r\n"),
    Packet("HTTP/1.2", get(version=b"1.2"), 505),
    Packet("HTTP/9.9", get(version=b"9.9"), 505),
    Packet("HTTP/11.1", get(version=b"11.1")),
    Packet("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    Packet("a target beyond ASCII", get(path=b"/\xff")),
    Packet("an escape beyond UTF-8", get(path=b"/%ff%00%0d%0a"), 404),
    Packet("a target with a NUL", get(path=b"/models\0")),
    Packet("a target without a slash", get(path=b"http://")),
]

HEADERS = [
    Packet("a huge header line", get(b"X: " + b"x" * 1_000_000), 431),
    Packet("a huge request line", b"GET /" + b"x" * 1_000_000, 431),
    Packet("headers of the greatest size", get(b"X: " + b"x" * (MAX_HEAD_BYTES - 60)), 200),
    Packet("as many headers as may be", get(*[b"X:"] * (MAX_HEADERS - 1)), 200),
    Packet("a header too many", get(*[b"X:"] * MAX_HEADERS), 431),
    Packet("3000 headers", get(*[b"X:"] * 3000), 431),
    Packet("20000 headers", get(*(b"X-%d: y" % n for n in range(20_000))), 431),
    Packet("headers without an end", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000, 431),
    Packet("a NUL in a header's value", get(b"X: a\0b")),
    Packet("a NUL in a header's name", get(b"X\0Y: a")),
    Packet("a carriage return in a header's value", get(b"X: a\rY: b")),
    Packet("bare line feeds", MODELS.replace(b"\r\n", b"\n"), 200),
    Packet("a header without a colon", get(b"no colon")),
    Packet("a header without a name", get(b": value")),
    Packet("a space before the colon", get(b"X : y")),
    Packet("a space before the first header", b"GET /models HTTP/1.1\r\n Host: x\r\n\r\n"),
    Packet("blanks before a NUL", get(b"X:" + b" " * 15_000 + b"\0")),
    Packet("blanks before a form feed", get(b"X:" + b" \t" * 7_500 + b"\f")),
    Packet("blanks before a carriage return", get(b"X:" + b" " * 15_000 + b"\rx")),
    Packet("a header continued on the next line", get(b"X: a", b" b"), 200),
    Packet("a header beyond ASCII", get(b"X: \xff\xfe"), 200),
    Packet("a header name beyond ASCII", get(b"\xff: x")),
    Packet("two hosts", get(b"Host: y")),
    Packet("an unknown expectation", post(HELLO, b"Expect: the unexpected"), 200),
    Packet("a connection option that names itself", get(b"Connection: connection, host"), 200),
]

LENGTHS = [
    Packet(
        f"Content-Length {' and '.join(map(repr, lengths))}",
        post_head(*(b"Content-Length: " + length.encode() for length in lengths)) + b"{}",
        status,
    )
    for status, lengths in [
        (400, ["-1"]),
        (400, ["+2"]),
        (400, ["2", "3"]),
        (400, ["2, 3"]),
        (422, ["2", "2"]),
        (422, ["2, 2"]),
        (400, [""]),
        (400, ["two"]),
        (400, ["0x2"]),
        (400, ["2.0"]),
        (400, ["2e0"]),
        (400, ["1_0"]),
        (400, ["2 2"]),
        (400, ["\xb2"]),
        (400, ["9" * 100]),
        (400, ["9" * 10_000]),
        (413, ["9" * 19]),
    ]
] + [
    Packet("Content-Length with chunks", post(HELLO, b"Transfer-Encoding: chunked")),
    Packet(
        "chunks with Content-Length",
        post_head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"0\r\n\r\n",
    ),
    Packet(
        "two lengths and a broken chunk",
        post_head(b"Transfer-Encoding: chunked", b"Content-Length: 5") + b"zz\r\n\r\n",
    ),
    Packet(
        "another version and a broken chunk",
        post_head(b"Transfer-Encoding: chunked", version=b"1.2") + b"zz\r\n\r\n",
        505,
    ),
    Packet("chunked twice", post_head(*[b"Transfer-Encoding: chunked"] * 2), 501),
    Packet("chunked, then identity", post_head(b"Transfer-Encoding: chunked, identity"), 501),
    Packet("another transfer coding", post_head(b"Transfer-Encoding: gzip, chunked"), 501),
    Packet("a transfer coding in disguise", post_head(b"Transfer-Encoding: \x0bchunked"), 400),
    Packet("a transfer coding in quotes", post_head(b'Transfer-Encoding: "chunked"'), 501),
    Packet("a body of /models", get(b"Content-Length: 5") + b"hello", 200),
]

BODY = json.dumps(HELLO).encode()

CHUNKS = [
    Packet("a chunk size that is no number", chunked(b"zz\r\n{}\r\n0\r\n\r\n")),
    Packet("a negative chunk size", chunked(b"-2\r\n{}\r\n0\r\n\r\n")),
    Packet("a chunk size with 0x", chunked(b"0x2\r\n{}\r\n0\r\n\r\n")),
    Packet("a chunk size with an underscore", chunked(b"0_2\r\n{}\r\n0\r\n\r\n")),
    Packet("an empty chunk size", chunked(b"\r\n{}\r\n0\r\n\r\n")),
    Packet("a chunk size of 100 digits", chunked(b"1" * 100 + b"\r\n")),
    Packet("a chunk size of 100000 digits", chunked(b"1" * 100_000)),
    Packet("a chunk size of 20 digits", chunked(b"f" * 20 + b"\r\n" + b"x" * 100_000), None),
    Packet("a chunk longer than its size", chunked(b"2\r\n{}xx0\r\n\r\n")),
    Packet("a chunk shorter than its size", chunked(b"5\r\n{}\r\n0\r\n\r\nxxxx")),
    Packet("a chunk with bare line feeds", chunked(b"2\n{}\n0\n\n"), None),
    Packet("chunks cut short", chunked(b"ff\r\n{"), None),
    Packet("a chunk extension", chunked(chunk(BODY, b";a=b;c") + b"0;d\r\n\r\n"), 200),
    Packet("a quoted chunk extension", chunked(chunk(BODY, b';a="b;\t"') + b"0\r\n\r\n"), 200),
    Packet("an empty chunk extension", chunked(chunk(BODY, b";") + b"0\r\n\r\n"), 200),
    Packet("a chunk extension beyond ASCII", chunked(chunk(BODY, b";\xff\0") + b"0\r\n\r\n"), 200),
    Packet("a space before a chunk extension", chunked(chunk(BODY, b" ;a") + b"0\r\n\r\n")),
    Packet("a chunk extension without its sign", chunked(chunk(BODY, b" a") + b"0\r\n\r\n")),
    Packet("a line feed in a chunk extension", chunked(chunk(BODY, b";\n") + b"0\r\n\r\n")),
    Packet("a huge chunk extension", chunked(b"2;" + b"x" * 1_000_000)),
    Packet("a trailer", chunked(chunk(BODY) + b"0\r\nX: y\r\n\r\n"), 200),
    Packet("a trailer of a length", chunked(chunk(BODY) + b"0\r\nContent-Length: 9\r\n\r\n"), 200),
    Packet("a trailer without a colon", chunked(chunk(BODY) + b"0\r\nnonsense\r\n\r\n")),
    Packet("a huge trailer", chunked(chunk(BODY) + b"0\r\nX: " + b"x" * 1_000_000), 431),
    Packet("blanks in a chunk extension", chunked(b"2;" + b" " * 15_000 + b"\n\r\n")),
    Packet("blanks before a NUL in a trailer", chunked(b"0\r\nX:" + b" " * 15_000 + b"\0\r\n\r\n")),
    Packet("a trailer too many", chunked(b"0\r\n" + b"X:\r\n" * (MAX_HEADERS + 2) + b"\r\n"), 431),
    Packet("chunks of one byte without end", chunked(chunk(b" ") * 100_000)),
    Packet(
        "chunks of five bytes", chunked(chunk(b" " * 5) * 10_000 + chunk(BODY) + b"0\r\n\r\n"), 200
    ),
    Packet("lines as chunks", chunked(chunk(b" " * 100) * 1000 + chunk(BODY) + b"0\r\n\r\n"), 200),
    Packet(
        "a long extension in each chunk",
        chunked(chunk(b" ", b";" + b"x" * 1000) * (MAX_FRAMING_BYTES // 1000 + 1)),
    ),
    Packet("a thousand small chunks", chunked(chunk(b" ") * 1000 + b"0\r\n\r\n")),
]

PACKETS = [*KILLERS, *HTTP2, *UPGRADES, *GARBAGE, *HEADERS, *LENGTHS, *CHUNKS]


# Answers


def read_answer(file: BinaryIO) -> Answer | None:
    """Read one whole response; ``None`` at the end of the connection."""
    line = file.readline()
    if not line:
        return None
    version, status, _ = line.split(b" ", 2)
    assert version == b"HTTP/1.1"
    headers = http.client.parse_headers(file)
    if headers.get("Transfer-Encoding") == "chunked":
        body = b"".join(iter(lambda: read_chunk(file), b""))
    elif "Content-Length" in headers:
        body = file.read(int(headers["Content-Length"]))
        assert len(body) == int(headers["Content-Length"])
    else:
        body = file.read()
    return Answer(int(status), headers, body)


def read_chunk(file: BinaryIO) -> bytes:
    size = int(file.readline(), 16)
    data = file.read(size + 2)
    assert data[size:] == b"\r\n"
    return data[:size]


def read_all(file: BinaryIO) -> list[Answer]:
    """Read responses up to the end of the connection."""
    return list(iter(lambda: read_answer(file), None))


def check(answer: Answer) -> None:
    """It is a success, or one of our error lines."""
    if answer.status == 200:
        assert answer.body.endswith(b"}\n")
        return
    assert 400 <= answer.status < 500 or answer.status in (501, 505)
    assert answer.headers["Content-Type"] == "application/json"
    assert set(answer.error) == {"type", "data", "detail", "code"}
    assert answer.error["type"] == "stderr"


# Ways to leave


def close(connection: socket.socket) -> None:
    connection.close()


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def half_close(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_WR)


def wait_closed(connection: socket.socket) -> None:
    with suppress(ConnectionError):
        while connection.recv(65_536):
            pass


# One server, and a run beside


class Beside:
    """A server, and a run on it that prints a number whenever it is told to."""

    def __init__(self, server: Server, stream: Stream, gate: int) -> None:
        self.server = server
        self._stream = stream
        self._gate = gate
        self._count = 0

    def beat(self) -> bool:
        """Whether the next number comes out, and nothing else."""
        self._count += 1
        line = f"{self._count}\n"
        os.write(self._gate, line.encode())
        return self._stream.next_event() == {"type": "stdout", "data": line}


@contextmanager
def open_gate(path: Path) -> Iterator[int]:
    """A named pipe that a child reads from, opened without waiting for the child."""
    os.mkfifo(path)
    gate = os.open(path, os.O_RDWR)
    try:
        yield gate
    finally:
        os.close(gate)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    path = tmp_path_factory.mktemp("beside") / "gate"
    script = 'while read number; do echo "$number"; done <"$0"'
    with (
        open_gate(path) as gate,
        Server(TOOLS) as server,
        server.stream("sh", "-c", script, str(path)) as stream,
    ):
        yield Beside(server, stream, gate)


@dataclass(frozen=True)
class Outcome:
    """What came of a packet."""

    packet: Packet
    answers: list[Answer]
    beats: list[bool]
    log: list[str]
    alive: bool
    next_answer: Answer


def deliver(connection: socket.socket, data: bytes, size: int) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for start in range(0, len(data), size):
        connection.sendall(data[start : start + size])


def send_packet(beside: Beside, packet: Packet, size: int) -> tuple[list[Answer], list[bool]]:
    """Send a packet in pieces of ``size`` and read what comes, to the end of the connection."""
    beats = [beside.beat()]
    answers: list[Answer] = []
    with beside.server.connect() as connection, connection.makefile("rb") as file:
        deliver(connection, packet.data, size)
        beats.append(beside.beat())
        if packet.status is not None:
            answer = read_answer(file)
            assert answer is not None, "no answer"
            answers.append(answer)
        deliver(connection, packet.late, size)
        beats.append(beside.beat())
        connection.shutdown(socket.SHUT_WR)
        answers += read_all(file)
    beats.append(beside.beat())
    return answers, beats


@pytest.fixture(scope="module", params=PACKETS, ids=str)
def outcome(request: pytest.FixtureRequest, beside: Beside) -> Outcome:
    packet: Packet = request.param
    server = beside.server
    logged = len(server.log)
    answers, beats = send_packet(beside, packet, max(len(packet.data), 1))
    next_answer = server.request("GET", "/models")
    beats.append(beside.beat())
    return Outcome(
        packet,
        answers,
        beats,
        log_since(server, logged),
        server.process.poll() is None,
        next_answer,
    )


def log_since(server: Server, logged: int) -> list[str]:
    """What was logged after the first ``logged`` lines, up to now, but for the ends of runs."""
    assert exit_code(server.run("true")) == 0
    server.wait_for_log("run of true exited", after=logged)
    return [line for line in server.log[logged:] if "run of " not in line]


def test_the_server_lives_and_answers(outcome: Outcome) -> None:
    assert outcome.alive
    assert outcome.next_answer.status == 200
    assert json.loads(outcome.next_answer.body) == {"models": ["auto"], "count": 1}


def test_a_stream_beside_it_misses_no_beat(outcome: Outcome) -> None:
    assert outcome.beats == [True] * 5


def test_the_log_has_at_most_one_line_and_no_traceback(outcome: Outcome) -> None:
    assert len(outcome.log) <= 1, outcome.log
    assert "Traceback" not in "".join(outcome.log)


def test_it_is_answered_or_dropped_but_never_switched_to(outcome: Outcome) -> None:
    for answer in outcome.answers:
        check(answer)
    if outcome.packet.status is not None:
        assert outcome.answers[0].status == outcome.packet.status


@pytest.mark.parametrize("packet", [p for p in PACKETS if len(p.data) < 2000], ids=str)
def test_it_makes_no_difference_when_it_comes_byte_by_byte(beside: Beside, packet: Packet) -> None:
    answers, beats = send_packet(beside, packet, 1)
    assert all(beats)
    for answer in answers:
        check(answer)
    if packet.status is not None:
        assert answers[0].status == packet.status
    assert beside.server.request("GET", "/models").status == 200


@pytest.mark.parametrize("packet", PACKETS, ids=str)
def test_a_sender_that_resets_at_once_harms_nobody(beside: Beside, packet: Packet) -> None:
    logged = len(beside.server.log)
    with beside.server.connect() as connection:
        connection.sendall(packet.data)
        reset(connection)
    assert beside.server.request("GET", "/models").status == 200
    assert beside.beat()
    log = log_since(beside.server, logged)
    assert len(log) <= 1, log
    assert "Traceback" not in "".join(log)


STOCK = """
import sys

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart_trio import QuartTrio

app = QuartTrio("stock")


@app.route("/models")
async def models():
    return {"models": []}


async def main():
    config = Config()
    config.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(serve, app, config)
        print(f" listening on {address}", file=sys.stderr, flush=True)


trio.run(main)
"""


@pytest.mark.parametrize("packet", KILLERS, ids=str)
def test_the_killers_end_a_stock_server(packet: Packet) -> None:
    """The control: without it nobody knows that the packets are what they are called."""
    with Server({}, command=[sys.executable, "-c", STOCK]) as server:
        assert server.request("GET", "/models").status == 200
        with server.connect() as connection, suppress(ConnectionError):
            connection.sendall(packet.data)
            if packet.late:
                while connection.recv(1000):  # the answer, and then to each ping
                    connection.sendall(packet.late)
            assert server.process.wait(TIMEOUT_S) == 1


# What follows the body


def head_end(file: BinaryIO) -> None:
    while file.readline().strip():
        pass


@contextmanager
def silent_run(server: Server, tail: bytes, *, later: bool) -> Iterator[tuple[socket.socket, int]]:
    """A run that says its number and no more, and ``tail`` after its request."""
    with server.connect() as connection:
        connection.sendall(post(SILENT) + (b"" if later else tail))
        with connection.makefile("rb") as file:
            assert file.readline().startswith(b"HTTP/1.1 200 ")
            head_end(file)
            pid = int(json.loads(read_chunk(file))["data"])
        if later:
            connection.sendall(tail)
        assert alive(pid)
        yield connection, pid


TAILS = {
    "nothing": b"",
    "a line end": b"\r\n",
    "line ends": b"\r\n" * 100,
    "a request": MODELS,
    "another run": post(HELLO),
    "half a request": MODELS[:10],
    "no request": b"\0\xff nonsense \r\n\r\n",
}


@pytest.mark.parametrize("later", [False, True], ids=["with the request", "behind the response"])
@pytest.mark.parametrize("leave", [close, reset, half_close], ids=lambda leave: leave.__name__)
@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_no_bytes_after_the_body_hide_that_the_client_leaves(
    server: Server, tail: bytes, leave: Callable[[socket.socket], None], later: bool
) -> None:
    with silent_run(server, tail, later=later) as (connection, pid):
        leave(connection)
        wait_gone(pid)


def test_a_half_close_ends_the_connection_without_the_look_of_a_whole_response(
    server: Server,
) -> None:
    with silent_run(server, b"", later=False) as (connection, pid):
        connection.shutdown(socket.SHUT_WR)
        wait_gone(pid)
        with suppress(ConnectionResetError):
            assert connection.recv(1000) == b""  # neither an exit event nor the last chunk


def test_pipelined_requests_are_answered_in_order(server: Server) -> None:
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(MODELS + CLIS + MODELS)
        answers = [read_answer(file) for _ in range(3)]
    keys = [list(json.loads(answer.body)) for answer in answers if answer is not None]
    assert keys == [["models", "count"], ["clis", "count"], ["models", "count"]]


@pytest.mark.parametrize("size", [1, 1000], ids=["byte by byte", "at once"])
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r\n\n\r\n"])
def test_a_line_end_behind_a_body_is_no_request(server: Server, line_end: bytes, size: int) -> None:
    with server.connect() as connection, connection.makefile("rb") as file:
        deliver(connection, line_end + post(HELLO) + line_end + CLIS + line_end + MODELS, size)
        answers = [read_answer(file) for _ in range(3)]
        assert [answer.status for answer in answers if answer is not None] == [200] * 3
        deliver(connection, line_end, size)
        deliver(connection, MODELS, size)
        last = read_answer(file)
    assert last is not None
    assert last.status == 200


def test_pipelined_runs_are_answered_in_order(server: Server) -> None:
    runs = [post({"cli": "sh", "args": ["-c", f"echo {number}"]}) for number in range(5)]
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(b"".join(runs))
        answers = [read_answer(file) for _ in runs]
    texts = [text_of(answer.events, "stdout") for answer in answers if answer is not None]
    assert texts == [f"{number}\n" for number in range(5)]


@pytest.mark.parametrize("later", [False, True], ids=["with the request", "behind the response"])
@pytest.mark.parametrize("count", [1, 8])
def test_what_is_pipelined_behind_a_run_is_answered_after_it(
    server: Server, tmp_path: Path, later: bool, count: int
) -> None:
    """As much as may wait: eight requests that fill the bound to the byte."""
    padding = b"X: " + b"x" * (MAX_PIPELINED_BYTES // 8 - len(get(b"X: ")))
    tail = get(padding) * count
    assert len(tail) == MAX_PIPELINED_BYTES * count // 8
    script = 'echo first; read line <"$0"; echo last'
    run = post({"cli": "sh", "args": ["-c", script, str(tmp_path / "gate")]})
    with (
        open_gate(tmp_path / "gate") as gate,
        server.connect() as connection,
        connection.makefile("rb") as file,
    ):
        connection.sendall(run + (b"" if later else tail))
        assert file.readline().startswith(b"HTTP/1.1 200 ")
        head_end(file)
        body = read_chunk(file)
        if later:
            connection.sendall(tail)
        os.write(gate, b"\n")
        body += b"".join(iter(lambda: read_chunk(file), b""))
        events: list[Event] = [json.loads(line) for line in body.splitlines()]
        assert text_of(events, "stdout") == "first\nlast\n"
        assert exit_code(events) == 0
        for _ in range(count):
            answer = read_answer(file)
            assert answer is not None
            assert json.loads(answer.body) == {"models": ["auto"], "count": 1}


@pytest.mark.parametrize("data", [b"x", MODELS, b"\r\n"], ids=["bytes", "requests", "line ends"])
def test_pipelining_beyond_the_bound_ends_the_connection_and_the_run(
    server: Server, data: bytes
) -> None:
    tail = (data * (MAX_PIPELINED_BYTES + 1))[: MAX_PIPELINED_BYTES + 1]
    with silent_run(server, b"", later=True) as (connection, pid):
        with suppress(ConnectionError):
            connection.sendall(tail)
        wait_closed(connection)
        wait_gone(pid)


# The end of the connection


CLOSING = {
    "Connection: close": (get(b"Connection: close"), 200),
    "Connection: close among others": (get(b"Connection: x, Close"), 200),
    "HTTP/1.0": (get(version=b"1.0"), 200),
    "nginx's default": (post(HELLO, b"Connection: close", version=b"1.0"), 200),
    "run and Connection: close": (post(MEGABYTE, b"Connection: close"), 200),
    "run and HTTP/1.0": (post(MEGABYTE, version=b"1.0"), 200),
    "405 and Connection: close": (get(b"Connection: close", path=b"/run"), 405),
    "413 of a body that does not come": (post_head(b"Content-Length: 99999999"), 413),
    "413 of a body that comes": (
        post_head(b"Content-Length: 20000000") + bytes(20_000_000),
        413,
    ),
    "413 of chunks": (chunked(chunk(bytes(1_000_000)) * 20), 413),
    "413 and HTTP/1.0": (post_head(b"Content-Length: 99999999", version=b"1.0"), 413),
    "415 of a body that does not come": (
        b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        415,
    ),
}


@pytest.mark.parametrize(("data", "status"), CLOSING.values(), ids=CLOSING)
def test_the_connection_closes_after_the_whole_answer(
    server: Server, data: bytes, status: int
) -> None:
    check_last_answer(server, data, status)


@pytest.mark.parametrize("tail", [b"\r\n", MODELS, b"\0"], ids=["a line end", "a request", "NUL"])
@pytest.mark.parametrize(
    "data",
    [
        get(b"Connection: close"),
        get(version=b"1.0"),
        post(MEGABYTE, b"Connection: close"),
        post(MEGABYTE, version=b"1.0"),
    ],
    ids=["close", "HTTP/1.0", "run and close", "run and HTTP/1.0"],
)
def test_bytes_after_the_last_request_do_not_spoil_its_answer(
    server: Server, data: bytes, tail: bytes
) -> None:
    check_last_answer(server, data + tail, 200)


def check_last_answer(server: Server, data: bytes, status: int) -> None:
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(data)
        everything = io.BytesIO(file.read())  # returns at the end of the connection
    (answer,) = read_all(everything)
    assert answer.status == status
    check(answer)
    if answer.headers["Content-Type"] == "application/x-ndjson":
        assert exit_code(answer.events) == 0
        assert text_of(answer.events, "stdout") in ("hello\n", "x" * 1_000_000)


# Any body


FILE_MAKER = {"cli": "sh", "args": ["-c", ">a"], "stdin": ":", "env": {}}
"""Its command can only make a file in the folder it runs in, and so can what a
few changed bytes make of it: no ``/`` is ever added."""

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
other_values: dict[str, st.SearchStrategy[Any]] = {
    "cli": json_values,
    "args": st.sampled_from([None, "-c", 1, {}, [1], ["-c", None], [["-c"]], ["-c", "\0"]]),
    "stdin": st.sampled_from([None, 1, [], {}, ["x"], "\0", "\ud800"]),
    "env": json_values,
    "more": json_values,
}
"""What a field may become. A script never comes out of it."""


@st.composite
def changed_bytes(draw: st.DrawFn) -> bytes:
    """The request as bytes, some of them replaced."""
    body = json.dumps(FILE_MAKER).encode()
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = draw(st.integers(start, min(start + 5, len(body))))
        new = draw(st.binary(max_size=4)).replace(b"/", b"")
        body = body[:start] + new + body[end:]
    return body


@st.composite
def changed_values(draw: st.DrawFn) -> bytes:
    """The request with one value changed, or with one field more."""
    field = draw(st.sampled_from(sorted(other_values)))
    return json.dumps(FILE_MAKER | {field: draw(other_values[field])}).encode()


bodies = (
    st.binary(max_size=200)
    | changed_bytes()
    | changed_values()
    | st.builds(lambda end: json.dumps(FILE_MAKER).encode()[:end], st.integers(0, 100))
    | st.sampled_from(["utf-16", "utf-32", "utf-8-sig", "utf-7"]).map(
        lambda encoding: json.dumps(FILE_MAKER).encode(encoding)
    )
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def server_in_folder(folder: Path) -> Iterator[Server]:
    command = ["env", "-C", str(folder), sys.executable, "-m", "codex_serve"]
    with Server({"CLI_LIST": "sh"}, command=command) as server:
        yield server


def runs_of(server: Server) -> int:
    """How many runs the log tells of."""
    return sum("run of " in line for line in server.log)


def test_the_request_that_the_bodies_come_from_makes_a_file(
    server_in_folder: Server, folder: Path
) -> None:
    """The control of what follows."""
    runs = runs_of(server_in_folder)
    assert server_in_folder.post(FILE_MAKER).events == [{"type": "exit", "code": 0}]
    (folder / "a").unlink()
    # The log line comes after the response: the next test must not count it as its own.
    wait_until(lambda: runs_of(server_in_folder) > runs, "the log of the run")


@pytest.mark.slow
@given(body=bodies)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_is_a_stream_or_our_refusal_which_starts_nothing(
    server_in_folder: Server, folder: Path, body: bytes
) -> None:
    server = server_in_folder
    runs = runs_of(server)
    answer = server.post(body)
    if answer.status == 200:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        exit_code(answer.events)
        wait_until(lambda: runs_of(server) > runs, "the log of the run")
    else:
        assert 400 <= answer.status < 500
        check(answer)
        assert not list(folder.iterdir())
    assert runs_of(server) == runs + (answer.status == 200)
    for file in folder.iterdir():
        file.unlink()
