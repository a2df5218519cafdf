"""One request and its response, in one task.

The rule this file guards: the nursery that runs a command is entered and left
by the task that sends the response. So a client that leaves, a failing send
and the end of the run all leave the nursery, and the run with it. Quart would
drive an async generator instead, which cannot do this. (Trio's reference,
"Cancel scopes and nurseries in async generators", tells why.)
"""

from collections.abc import Awaitable, Callable, Generator
from typing import Any

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest
from quart_trio.wrappers.response import TrioResponse
from werkzeug.wrappers import Response as WerkzeugResponse

from codex_serve.run import EventSender


class ProducedResponse(TrioResponse):
    """A response whose body is made while it is sent, by the task that sends it.

    ``produce`` sends the body and its end; the head goes with the first of it.
    """

    automatically_set_content_length = False

    def __init__(
        self,
        produce: Callable[[EventSender], Awaitable[None]],
        *,
        content_type: str,
        headers: dict[str, str],
    ) -> None:
        super().__init__(content_type=content_type, headers=headers)
        self.produce = produce


class PulledBody(TrioBody):
    """A request's body that is taken in by the task that waits for it."""

    receive: ASGIReceiveCallable

    def __await__(self) -> Generator[Any, None, Any]:
        """Take the body in; raise ``RequestEntityTooLarge`` as soon as that is known."""
        yield from self._pull().__await__()
        if self._must_raise is not None:
            raise self._must_raise
        return bytes(self._data)  # Quart's own would wait a turn for what is there

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
    """Quart's part in one request and its response.

    Quart has two tasks for each request, one that answers it and one that takes
    in its body and then waits for ``http.disconnect`` to cancel the first. Here
    a disconnect cancels the connection's nursery, with all that is in it, and
    ``http1`` sends no such message; so the task that answers takes in the body
    itself. And the end of a body goes with the end of the response. ``GET
    /models`` costs a sixth less for it.
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
        sending = _Sending(response, send)
        if isinstance(response, ProducedResponse):
            await response.produce(sending)
        else:
            assert isinstance(response.response, DataBody)  # as all that are made of bytes
            await sending.send(response.response.data, more=False)


class _Sending:
    """A response that is being sent. See ``EventSender``."""

    def __init__(self, response: Response | WerkzeugResponse, send: ASGISendCallable) -> None:
        self._response = response
        self._send = send
        self._begun = False

    def __repr__(self) -> str:
        return f"<_Sending {self._response!r}{' begun' if self._begun else ''}>"

    async def begin(self) -> None:
        """Hand over the head; it goes out with the first of the body."""
        if not self._begun:
            self._begun = True
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
