"""A run as the body of a response.

The rule this file guards: the nursery that runs the command is entered and
left by the task that sends the response, around its loop and never inside an
async generator that the loop drives. So a client that leaves, a failing send
and the end of the run all leave the nursery, and the run with it. (Trio's
reference, "Cancel scopes and nurseries in async generators", tells why a
generator cannot do this.)
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPResponseBodyEvent
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response, ResponseBody
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest
from werkzeug.wrappers import Response as WerkzeugResponse

HEAD_WAIT_S = 0.005
"""How long the head of a response waits for the first of its body, to go with it."""

Producer = Callable[[trio.MemorySendChannel[bytes]], Awaitable[bytes]]
"""Puts data on the channel, closes it, and returns the last of it."""


class ProducedBody(ResponseBody):
    """Sends what a producer task puts on a channel of size zero.

    The producer starts when the sending of the body does, so a client that has
    left before that has started nothing.
    """

    def __init__(self, produce: Producer) -> None:
        self._produce = produce
        self._context = self._produced()
        self.last = b""
        """The end of the body, to be sent with the end of the response, when
        the context has been left."""

    async def __aenter__(self) -> trio.MemoryReceiveChannel[bytes]:
        return await self._context.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._context.__aexit__(exc_type, exc_value, traceback)

    @asynccontextmanager
    async def _produced(self) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        send, receive = trio.open_memory_channel[bytes](0)

        async def produce() -> None:
            self.last = await self._produce(send)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce)
            yield receive


class PulledBody(TrioBody):
    """A request's body that is taken in by the task that waits for it."""

    receive: ASGIReceiveCallable

    def __await__(self) -> Generator[Any, None, Any]:
        """Take the body in; raise ``RequestEntityTooLarge`` as soon as that is known."""
        yield from self._pull().__await__()
        return (yield from super().__await__())

    async def _pull(self) -> None:
        while self._must_raise is None and not self._complete.is_set():
            message = await self.receive()
            assert message["type"] == "http.request"  # see Exchange
            self.append(message["body"])
            if not message["more_body"]:
                self.set_complete()


class PullingRequest(TrioRequest):
    """A request with such a body."""

    body_class = PulledBody
    body: PulledBody


class Exchange(TrioASGIHTTPConnection):
    """Quart's part in one request and its response, in one task and few messages.

    Quart has two tasks for each request, one that answers it and one that takes
    in its body and then waits for ``http.disconnect`` to cancel the first. Here
    a disconnect cancels the connection's nursery, with all that is in it, and
    ``http1`` sends no such message; so the task that answers takes in the body
    itself. And the end of a body goes with the end of the response. A short
    request takes a third less time.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve the request."""
        request = self._create_request_from_scope(send)
        assert isinstance(request, PullingRequest)
        request.body.receive = receive
        await self._send_response(send, await self.app.handle_request(request))

    async def _send_response(
        self, send: ASGISendCallable, response: Response | WerkzeugResponse
    ) -> None:
        body = response.response
        if not isinstance(body, ProducedBody | DataBody):
            await super()._send_response(send, response)
            return
        await send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": encode_headers(response.headers),
            }
        )
        if isinstance(body, DataBody):
            await send(_message(body.data, more=False))
            return
        async with body as items:
            first = b""
            with trio.move_on_after(HEAD_WAIT_S) as patience:
                first = await anext(items, b"")
            if first or patience.cancelled_caught:
                await send(_message(first, more=True))
            async for data in items:
                await send(_message(data, more=True))
        await send(_message(body.last, more=False))


def _message(data: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": data, "more_body": more}
