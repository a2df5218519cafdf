"""A run as the body of a response.

The rule this file guards: the nursery that runs the command is entered and
left by the task that sends the response, around its loop and never inside an
async generator that the loop drives. So a client that leaves, a failing send
and the end of the run all leave the nursery, and the run with it. (Trio's
reference, "Cancel scopes and nurseries in async generators", tells why a
generator cannot do this.)
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPResponseBodyEvent
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response, ResponseBody
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.wrappers import Response as WerkzeugResponse

Producer = Callable[[trio.MemorySendChannel[bytes]], Awaitable[bytes]]
"""Puts data on the channel, closes it, and returns the last of it."""


class ProducedBody(ResponseBody):
    """Sends what a producer task puts on a channel of size zero.

    The producer starts when the sending of the body does, so a client that has
    left before that has started nothing. Empty data sends the head of the
    response, where nothing else has yet.
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


class Exchange(TrioASGIHTTPConnection):
    """Quart's part in one request and its response, with two differences.

    The handler runs in the task that calls, not in another one; and the end of
    a body is sent with the end of the response, in one message, not two.
    Together they save a fifth of the time of a short request.
    """

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Serve the request."""
        request = self._create_request_from_scope(send)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.handle_messages, nursery, request, receive)
            await self.handle_request(nursery, request, send)

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
            last = body.data
        else:
            async with body as items:
                async for data in items:
                    await send(_message(data, more=True))
            last = body.last
        await send(_message(last, more=False))


def _message(data: bytes, *, more: bool) -> HTTPResponseBodyEvent:
    return {"type": "http.response.body", "body": data, "more_body": more}
