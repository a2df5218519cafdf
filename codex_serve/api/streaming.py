"""One request and its response, in one task.

The rule this file guards: the nursery that runs a command is entered and left
by the task that sends the response. So a client that leaves, a failing send
and the end of the run all leave the nursery, and the run with it.

Stock Quart has two tasks for each request: one answers it, the other takes in
its body and then waits for ``http.disconnect``. There a run would be a
``ResponseBody`` that reads from a channel. That works; measured, it costs
1.6 times the processor time of a short run, and 1.3 times that of much output.
"""

from collections.abc import Awaitable, Callable

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioRequest
from quart_trio.wrappers.response import TrioResponse

from codex_serve.core.errors import ApiError
from codex_serve.core.events import encode_error
from codex_serve.runs.run import EventSender

Produce = Callable[[EventSender], Awaitable[None]]


class PulledRequest(TrioRequest):
    """A request whose body is taken in by the task that answers it."""

    receive: ASGIReceiveCallable

    async def read(self, max_bytes: int) -> bytearray:
        """Take in the body, ``max_bytes`` at most. ``http1`` keeps the time for it.

        Raises:
          ApiError: 413 ``request_too_large``, as soon as that is known.
        """
        body = bytearray()
        more = True
        too_large = (self.content_length or 0) > max_bytes
        while more and not too_large:
            message = await self.receive()
            assert message["type"] == "http.request"  # http1 sends no other
            body += message["body"]
            more = message["more_body"]
            too_large = len(body) > max_bytes
        if too_large:
            raise ApiError(
                413,
                "request_too_large",
                f"The request body must not be larger than {max_bytes} bytes.",
            )
        return body


class ProducedResponse(TrioResponse):
    """A response whose body is made by the task that sends it, while it sends it.

    Making it may raise ``ApiError`` as long as nothing has been sent.
    """

    def __init__(self, produce: Produce, headers: dict[str, str]) -> None:
        super().__init__(None, headers=headers)
        self.produce = produce


class OneTaskConnection(TrioASGIHTTPConnection):
    """Answers a request in the task that has read it; see the module."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Have Quart dispatch the request, and send the response.

        ``http1`` cancels this task when the client leaves.
        """
        request = self._create_request_from_scope(send)
        assert isinstance(request, PulledRequest)
        request.receive = receive
        response = await self.app.handle_request(request)
        if isinstance(response, ProducedResponse):
            sending = _Sending(response, send)
            try:
                await response.produce(sending)
                return
            except ApiError as error:
                assert not sending.begun  # a refusal comes before the head
                response = refuse(error)
        assert isinstance(response, Response)
        assert isinstance(response.response, DataBody)  # as all that are made of bytes
        await _Sending(response, send).send(response.response.data, more=False)


def refuse(error: ApiError) -> Response:
    """Return a refusal: one JSON line, which is an event of a stream too."""
    body = encode_error(error.code, error.detail)
    return Response(body, error.status, content_type="application/json")


class _Sending:
    """A response that is being sent. See ``EventSender``."""

    def __init__(self, response: Response, send: ASGISendCallable) -> None:
        self._response = response
        self._send = send
        self.begun = False

    def __repr__(self) -> str:
        return f"<_Sending {self._response.status_code}{' begun' if self.begun else ''}>"

    async def begin(self) -> None:
        """Hand over the head; it goes out with the first of the body."""
        if not self.begun:
            self.begun = True
            await self._send(
                {
                    "type": "http.response.start",
                    "status": self._response.status_code,
                    "headers": encode_headers(self._response.headers),
                }
            )

    async def send(self, data: bytes, *, more: bool = True) -> None:
        """Send some of the body, the last of it where there is no ``more``."""
        await self.begin()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
