"""One connection's bytes, given to ``Http1`` by hand: how much at once is not up to the network."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codex_serve.server.connection import RECEIVE_BYTES
from codex_serve.server.http1 import Closing, Endpoints, Http1, Link, Tasks

GET = b"GET /x HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """A connection without a network, to an application that answers with how long the body was."""

    def __init__(self) -> None:
        self.sent = b""
        self.closing: Closing | None = None
        self.scope = trio.CancelScope()
        self.asked = 0

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self.sent += data
        await trio.lowlevel.checkpoint_if_cancelled()

    def hang_up(self, closing: Closing) -> None:
        self.closing = closing
        self.scope.cancel()

    async def talk(self, *pieces: bytes) -> bytes:
        """Send ``pieces``, and return all that was answered."""
        with self.scope:
            tasks = Tasks()
            async with tasks:
                link = Link(self.send, lambda idle: None, self.hang_up)
                app, config, context = ASGIWrapper(self.app), HypercornConfig(), WorkerContext(None)
                http = Http1(app, config, context, tasks, Endpoints(False, None, None), link, 1000)
                for piece in pieces:
                    if answer := await http.receive(piece):
                        tasks.spawn(answer)
                await trio.testing.wait_all_tasks_blocked()
                self.scope.cancel()
        return self.sent

    async def app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self.asked += 1
        length, more = 0, True
        while more:
            message = await receive()
            assert message["type"] == "http.request"
            length, more = length + len(message["body"]), message["more_body"]
        body = b"<%d>" % length
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def fill(start: bytes, filling: bytes, end: bytes) -> bytes:
    """As much as comes at once."""
    return start + filling * ((RECEIVE_BYTES - len(start + end)) // len(filling)) + end


@pytest.mark.parametrize(
    "data",
    [
        fill(GET + b"X:", b" ", b"\0\r\n\r\n"),
        fill(GET + b"X:", b" ", b"\rx\r\n\r\n"),
        fill(CHUNKED + b"2;", b" ", b"\n\r\n"),
        fill(CHUNKED + b"0\r\nX:", b" ", b"\f\r\n\r\n"),
        fill(GET, b"X:\r\n", b"\r\n"),
        fill(GET, b" x\r\n", b"\r\n"),
        fill(CHUNKED, b"1\r\nx\r\n", b""),
        fill(CHUNKED, b"1;" + b"x" * 1000 + b"\r\nx\r\n", b""),
    ],
    ids=[
        "blanks before a NUL",
        "blanks before a carriage return",
        "blanks in a chunk extension",
        "blanks in a trailer",
        "headers",
        "continued lines",
        "small chunks",
        "chunk extensions",
    ],
)
async def test_what_takes_long_to_read_is_refused(data: bytes) -> None:
    """Of some of these a parser makes minutes, and of each more work than any client is worth."""
    assert (await Peer().talk(data))[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431")


async def test_nothing_more_is_answered_once_the_connection_is_over() -> None:
    peer = Peer()
    await peer.talk(fill(b"", GET + b"\r\n", b""))
    assert peer.closing is Closing.RESET
    assert peer.asked <= 1


@contextmanager
def counting_turns() -> Iterator[Callable[[], int]]:
    """How often another task that always wants to go on can do so."""
    turns = 0

    class Counter(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            nonlocal turns
            turns += 1

    counter = Counter()
    trio.lowlevel.add_instrument(counter)
    try:
        yield lambda: turns
    finally:
        trio.lowlevel.remove_instrument(counter)


async def test_others_have_their_turn_while_many_chunks_are_read() -> None:
    data = fill(CHUNKED, b"5\r\nhello\r\n", b"0\r\n\r\n")
    with counting_turns() as turns:
        answer = await Peer().talk(data)
        chunks = data.count(b"hello")
        assert answer.endswith(b"<%d>" % (5 * chunks))
        assert turns() > chunks / 1000


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 1000])
async def test_a_chunked_body_is_the_same_however_it_is_cut(cut: int) -> None:
    data = CHUNKED + b"5\r\nhello\r\n1;a\r\n \r\n010\r\n0123456789abcdef\r\n00;b\r\nX: y\r\n\r\n"
    data += GET + b"\r\n"
    pieces = [data[start : start + cut] for start in range(0, len(data), cut)]
    answer = await Peer().talk(*pieces)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"<22>" in answer
    assert answer.endswith(b"<0>")


FRAGMENTS = [
    *(b"GET /x HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"HEAD /x HTTP/1.1\r\n"),
    *(b"GET /x HTTP/1.0\r\n", b"CONNECT /x HTTP/1.1\r\n", b"GET /x HTTP/1.2\r\n", b"GET x\r\n"),
    *(b"Host: x\r\n", b"Host: x\r\n\r\n", b"Connection: close\r\n", b"Connection: keep-alive\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Content-Length: 5\r\n"),
    *(b"Content-Length: 0\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\n"),
    *(
        b"X: y\r\n",
        b" z\r\n",
        b": \r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\f",
        b"\xff",
        b"  ",
        b"\t",
    ),
    *(
        b"hello",
        b"5\r\nhello\r\n",
        b"1\r\nx\r\n",
        b"0\r\n\r\n",
        b"0;a\r\nX: y\r\n\r\n",
        b"a;b",
        b"-",
    ),
    *(GET + b"\r\n", CHUNKED, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"),
]


def answers_in(sent: bytes) -> list[bytes]:
    """The responses without what the time changes."""
    return re.split(rb"HTTP/1\.1 (?=[0-9]{3} )", re.sub(rb"date: [^\r]*", b"date", sent))[1:]


@given(
    data=st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=12).map(b"".join),
    cuts=st.lists(st.integers(0, 200)),
)
@example(b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n", [])
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_answered_or_not_the_same_however_they_are_cut(
    data: bytes, cuts: list[int]
) -> None:
    """And nothing is raised, whoever is told what when."""
    edges = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges) if start < end]
    whole, cut = Peer(), Peer()
    at_once = answers_in(trio.run(whole.talk, data))
    assert answers_in(trio.run(cut.talk, *pieces)) == at_once
    assert cut.closing == whole.closing
    assert {answer[:3] for answer in at_once} <= {b"100", b"200", b"400", b"431", b"501", b"505"}
