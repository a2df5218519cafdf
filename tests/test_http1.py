"""One connection's bytes, given to ``Http1`` by hand: how much at once is not up to the network."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from codex_serve.connection import RECEIVE_BYTES
from codex_serve.http1 import Closing, Endpoints, Http1, Link, Tasks

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
