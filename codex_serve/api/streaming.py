"""One request and its response, in one task.

The rule this file guards: the nursery that runs a command is entered and left
by the task that sends the response. So a client that leaves, a failing send
and the end of the run all leave the nursery, and the run with it. Quart would
drive an async generator instead, which cannot do this. (Trio's reference,
"Cancel scopes and nurseries in async generators", tells why.)
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioRequest

from codex_serve.core.errors import ApiError
from codex_serve.runs.run import EventSender

Headers = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ProducedResponse:
    """A response 200 whose body is made while it is sent, by the task that sends it.

    Attributes:
      headers: those of the response.
      produce: sends the body and its end.
    """

    headers: Headers
    produce: Callable[[EventSender], Awaitable[None]]


class PulledRequest(TrioRequest):
    """A request whose body is taken in by the task that wants it."""

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
            assert message["type"] == "http.request"  # see Exchange
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


AnyResponse = Response | ProducedResponse
View = Callable[[PulledRequest], Awaitable[AnyResponse]]


class Exchange(TrioASGIHTTPConnection):
    """Quart's part in one request and its response.

    Quart has two tasks for each request, one that answers it and one that takes
    in its body and then waits for ``http.disconnect`` to cancel the first. Here
    a disconnect cancels the connection's nursery, with all that is in it, and
    ``http1`` sends no such message; so the task that answers takes in the body
    itself. And the end of a body goes with the end of the response. ``GET
    /models`` costs a sixth less for it.
    """

    async def serve(self, view: View, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """Have the request answered by ``view``, and send the response."""
        request = self._create_request_from_scope(send)
        assert isinstance(request, PulledRequest)
        request.receive = receive
        response = await view(request)
        if isinstance(response, ProducedResponse):
            await response.produce(_Sending(200, response.headers, send))
        else:
            assert isinstance(response.response, DataBody)  # as all that are made of bytes
            sending = _Sending(response.status_code, encode_headers(response.headers), send)
            await sending.send(response.response.data, more=False)


class _Sending:
    """A response that is being sent. See ``EventSender``."""

    def __init__(self, status: int, headers: Headers, send: ASGISendCallable) -> None:
        self._status = status
        self._headers = headers
        self._send = send
        self._begun = False

    def __repr__(self) -> str:
        return f"<_Sending {self._status}{' begun' if self._begun else ''}>"

    async def begin(self) -> None:
        """Hand over the head; it goes out with the first of the body."""
        if not self._begun:
            self._begun = True
            await self._send(
                {
                    "type": "http.response.start",
                    "status": self._status,
                    "headers": self._headers,
                }
            )

    async def send(self, data: bytes, *, more: bool = True) -> None:
        """Send some of the body, the last of it where there is no ``more``."""
        await self.begin()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
