"""HTTP/1.1 on one connection: h11 reads and writes it, hypercorn's
``HTTPStream`` makes ASGI of it.

The rule this file guards: whatever the peer sends, it gets an answer of ours
or a closed connection, and reading never stops while a response runs, so that
a peer that leaves is noticed at once. hypercorn's own ``H11Protocol`` does
neither: it switches to HTTP/2 and to websockets when told to, and bytes that
follow a request make it stop reading.
"""

import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from enum import Enum, auto
from functools import partial
from http import HTTPStatus

import h11
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.protocol.events import Body, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup, _handle
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIReceiveEvent,
    ASGISendEvent,
    ConnectionState,
    Scope,
)
from hypercorn.utils import suppress_body

from codex_serve.core.events import encode_error
from codex_serve.server.incoming import Incoming

MAX_PIPELINED_BYTES = 65_536
"""The most that may wait behind the request being answered."""

_STREAM_ID = 1  # hypercorn's events carry HTTP/2's; HTTP/1.1 has one at a time
_ABSOLUTE_FORM = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


class Closing(Enum):
    """How a connection is closed."""

    AT_ONCE = auto()
    """Nobody waits for anything, or the server stops. A response that is not
    finished is cut by a reset all the same, so that nobody takes it for whole."""
    LINGERING = auto()
    """The peer may still be sending and must not lose the answer over it."""
    RESET = auto()
    """The peer does not take what it is sent, or sends more than it may."""


@dataclass(frozen=True, slots=True)
class Link:
    """What HTTP asks of the connection that carries it.

    Attributes:
      send: writes bytes; does not return unless they went out.
      set_idle: told ``False`` when a request's head has come, ``True`` when
        its exchange is over and the next may come.
      hang_up: closes the connection, and cancels whatever serves it.
    """

    send: Callable[[bytes], Awaitable[None]]
    set_idle: Callable[[bool], None]
    hang_up: Callable[[Closing], None]


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Who talks to whom, as ASGI's scope tells it."""

    tls: bool
    client: tuple[str, int] | None
    server: tuple[str, int] | None


Answer = Callable[[], Awaitable[None]]
"""Has the application answer a request; returns when it is done with it."""


class _Inbox:
    """What has come of a request's body and waits for the application to take it in."""

    def __init__(self) -> None:
        self._messages: deque[ASGIReceiveEvent] = deque()
        self._changed = trio.lowlevel.ParkingLot()

    def __repr__(self) -> str:
        return f"<_Inbox {len(self._messages)} messages>"

    async def put(self, message: ASGIReceiveEvent) -> None:
        """Leave a message, where more will follow only when the last one has been taken.

        The end of a body waits for nobody: an application may answer without it,
        and then the connection goes on.
        """
        while self._messages and message.get("more_body"):
            await self._changed.park()
        self._messages.append(message)
        self._changed.unpark_all()

    async def take(self) -> ASGIReceiveEvent:
        """Wait for a message."""
        while not self._messages:
            await self._changed.park()
        message = self._messages.popleft()
        self._changed.unpark_all()
        return message


class Tasks(TaskGroup):
    """The tasks of one connection, and the request that none of them answers yet.

    hypercorn's own has a task and a channel for each request, and lets all other
    tasks run before each message, also where nobody has to wait; that takes
    a twelfth of ``GET /models``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._answer: Answer | None = None

    def __repr__(self) -> str:
        return f"<Tasks{'' if self._answer is None else ' and a request'}>"

    async def spawn_app(
        self,
        app: AppWrapper,
        config: HypercornConfig,
        scope: Scope,
        send: Callable[[ASGISendEvent | None], Awaitable[None]],
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Have ``app`` answer a request, see ``take_answer``; return what hands messages to it."""
        inbox = _Inbox()
        run_sync, run = trio.to_thread.run_sync, trio.from_thread.run
        self._answer = partial(_handle, app, config, scope, inbox.take, send, run_sync, run)
        return inbox.put

    def take_answer(self) -> Answer | None:
        """Return what answers the request, for the task that has read it."""
        answer, self._answer = self._answer, None
        return answer


class _BatchingStream(HTTPStream):
    """Makes one write of all that comes of one of the application's messages.

    The start of a response waits for its first body message, as ASGI wants it;
    a message whose body is empty sends it alone.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        task_group: TaskGroup,
        endpoints: Endpoints,
        send: Callable[[Event], Awaitable[None]],
        flush: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(
            app,
            config,
            context,
            task_group,
            endpoints.tls,
            endpoints.client,
            endpoints.server,
            send,
            _STREAM_ID,
        )
        self._flush = flush

    async def app_send(self, message: ASGISendEvent | None) -> None:
        """Send a message of the application; ``None`` when it has no more."""
        await super().app_send(message)
        if message is not None and message["type"] == "http.response.body":
            await self._flush()

    async def _send_error_response(self, status_code: int) -> None:
        """Answer for an application that raised, or said nothing; hypercorn's has no body."""
        body = encode_error("internal_error", "The server failed; its log says more.")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await self.send(Response(_STREAM_ID, headers=headers, status_code=status_code))
        if not suppress_body(self.scope["method"], status_code):
            await self.send(Body(_STREAM_ID, data=body))
        await self.send(EndBody(_STREAM_ID))
        self.state = ASGIHTTPState.CLOSED


class Http1:
    """The exchanges of one connection, one after the other."""

    def __init__(
        self,
        app: AppWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        tasks: Tasks,
        endpoints: Endpoints,
        link: Link,
        body_timeout_s: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._tasks = tasks
        self._endpoints = endpoints
        self._link = link
        self._body_timeout_s = body_timeout_s
        self._body_limit: trio.CancelScope | None = None
        self._h11 = h11.Connection(h11.SERVER)
        self._incoming = Incoming(self._h11)
        self._stream: HTTPStream | None = None
        self._advancing = False
        self._refused = False
        self._unsent = b""
        self._exchange_over: trio.Event | None = None

    def __repr__(self) -> str:
        return f"<Http1 {self._h11.their_state} → {self._h11.our_state}>"

    async def receive(self, data: bytes) -> Answer | None:
        """Take in what the peer sent and act on all of it that can be acted on.

        Waits for the application to take in a body, never for its response.

        Returns:
          What answers a request that has begun with ``data``. While it does, what
          the peer sends must be received, and so by another task.
        """
        if self._h11.their_state is h11.MUST_CLOSE:
            return None  # behind a last request; h11 would call it an error
        self._incoming.receive(data)
        answer = await self._advance()
        if self._responding and self._incoming.waiting_bytes > MAX_PIPELINED_BYTES:
            if self._h11.our_state is h11.DONE:
                # The peer may have the end of the response before we know that it
                # has gone out, and send a long request.
                self._exchange_over = trio.Event()
                await self._exchange_over.wait()
            else:
                self._link.hang_up(Closing.RESET)
        return answer

    @property
    def unfinished(self) -> bool:
        """Whether a response has begun and not been finished."""
        return self._h11.our_state is h11.SEND_BODY

    @property
    def _responding(self) -> bool:
        """Whether the request has come in whole and its response has not gone out."""
        return self._stream is not None and self._h11.their_state is not h11.SEND_BODY

    async def _advance(self) -> Answer | None:
        if self._advancing:
            # That call sees what is new: between its last look and its end it does not wait.
            return None
        self._advancing = True
        body: list[bytes] = []  # that came together goes to the application together
        try:
            while not self._refused and self._h11.their_state is not h11.MUST_CLOSE:
                event = self._incoming.next_event()
                match event:
                    case h11.Request():
                        await self._open(event)
                    case bytes():
                        if body:  # chunks, and many: others have their turn
                            await trio.lowlevel.checkpoint()
                        body.append(event)
                    case h11.EndOfMessage():
                        if self._body_limit is not None:
                            self._body_limit.cancel()
                            self._body_limit = None
                        await self._put(body, more=False)
                    case _ if body:
                        await self._put(body, more=True)
                    case _:  # nothing more for now
                        break
        except h11.RemoteProtocolError as error:
            await self._refuse(error.error_status_hint, f"The request is not valid HTTP: {error}.")
        finally:
            self._advancing = False
        answer = self._tasks.take_answer()
        if answer and self._h11.their_state is h11.SEND_BODY:
            self._body_limit = trio.CancelScope()
            self._tasks.spawn(self._limit_body, self._body_limit)
        return answer

    async def _limit_body(self, scope: trio.CancelScope) -> None:
        """Refuse the request unless ``scope`` is cancelled in time, at the end of its body."""
        with scope:
            await trio.sleep(self._body_timeout_s)
            limit = f"{self._body_timeout_s:g} s"
            await self._refuse(408, f"The request body did not arrive within {limit}.")

    async def _go_on(self) -> None:
        """Act on what has come behind a request that is answered now."""
        await trio.lowlevel.checkpoint_if_cancelled()  # else all of it after the hang-up, too
        if answer := await self._advance():
            await answer()

    async def _put(self, body: list[bytes], *, more: bool) -> None:
        """Give the application what has come of a request's body, and forget it here."""
        data = b"".join(body)
        body.clear()
        if self._stream is not None:
            await self._stream.app_put({"type": "http.request", "body": data, "more_body": more})

    async def _open(self, request: h11.Request) -> None:
        """Start the application on a request."""
        self._link.set_idle(False)
        if request.http_version not in (b"1.0", b"1.1"):
            await self._refuse(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
            return
        if request.method == b"CONNECT":
            # To h11 a success would be the end of HTTP on this connection.
            await self._refuse(501, "This server is no proxy: it does not take CONNECT.")
            return
        path = _ABSOLUTE_FORM.sub(b"", request.target, count=1)
        if not path.startswith(b"/"):
            await self._refuse(400, "The request's target must be a path.")
            return
        if self._h11.they_are_waiting_for_100_continue:
            self._write(h11.InformationalResponse(status_code=100, headers=[]))
            await self._flush()
        self._stream = _BatchingStream(
            self._app,
            self._config,
            self._context,
            self._tasks,
            self._endpoints,
            self._send_event,
            self._flush,
        )
        await self._stream.handle(
            Request(
                stream_id=_STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii"),
                raw_path=path,
                state=ConnectionState({}),
            )
        )

    async def _send_event(self, event: Event) -> None:
        """Take one of the application's events; the end of the response is sent with the rest."""
        if self._refused:
            return  # the request broke off; what the application makes of that is too late
        match event:
            case Response():
                headers = [*event.headers, *self._config.response_headers("h11")]
                if self._h11.their_state is h11.SEND_BODY or self._context.terminated.is_set():
                    headers.append((b"connection", b"close"))
                self._write(_response(event.status_code, headers))
            case Body():
                self._write(h11.Data(data=event.data))
            case EndBody():
                self._write(h11.EndOfMessage())
                await self._flush()
            case StreamClosed():
                self._finish_exchange()

    def _write(
        self, event: h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
    ) -> None:
        data = self._h11.send(event) or b""
        self._unsent = self._unsent + data if self._unsent else data

    async def _flush(self) -> None:
        """Send what has been written."""
        data, self._unsent = self._unsent, b""
        if data:
            await self._link.send(data)

    def _finish_exchange(self) -> None:
        """End the exchange; take the next one or hang up."""
        if self._stream is not None:
            self._stream.closed = True  # the application's task may still say that it ended
            self._stream = None
        ours, theirs = self._h11.our_state, self._h11.their_state
        if self.unfinished or self._context.terminated.is_set():
            self._link.hang_up(Closing.AT_ONCE)
        elif ours is h11.MUST_CLOSE or theirs is h11.SEND_BODY:
            self._link.hang_up(Closing.LINGERING)
        else:
            self._h11.start_next_cycle()
            self._link.set_idle(True)
            if self._exchange_over is not None:
                self._exchange_over.set()
            if self._incoming.waiting_bytes:
                self._tasks.spawn(self._go_on)

    async def _refuse(self, status: int, detail: str) -> None:
        """Answer what never reached the application, look at nothing more, and hang up."""
        if self._refused:
            return  # the other reason is being sent
        self._refused = True
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = refusal(status, detail, head_only=self._incoming.by_head)
            await self._link.send(answer)
        self._link.hang_up(Closing.RESET if self.unfinished else Closing.LINGERING)


def refusal(
    status: int,
    detail: str,
    code: str | None = None,
    headers: Sequence[str] = (),
    *,
    head_only: bool = False,
) -> bytes:
    """Return a whole response, after which the connection is closed.

    It is made by hand, because h11 can answer only what it could read.

    Args:
      status: its status.
      detail: the sentence in its body.
      code: the word in its body; else that of the status.
      headers: more of them.
      head_only: whether it answers a ``HEAD``, and so goes without its body.
    """
    phrase = HTTPStatus(status).phrase
    body = encode_error(code or phrase.lower().replace(" ", "_"), detail)
    lines = [
        f"HTTP/1.1 {status} {phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"date: {formatdate(usegmt=True)}",
        "connection: close",
        *headers,
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if head_only else head + body


def _response(status: int, headers: list[tuple[bytes, bytes]]) -> h11.Response:
    return h11.Response(
        status_code=status, reason=HTTPStatus(status).phrase.encode(), headers=headers
    )
