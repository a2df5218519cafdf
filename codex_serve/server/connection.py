"""One connection, from accept to close.

The rule this file guards: the connection is one nursery. The peer leaving, a
write that does not finish in time, a deadline and our own closing are all the
same thing, a cancel of that nursery; and what a request started ends with it.
"""

import os
import socket
import ssl
import struct
from contextlib import suppress
from dataclasses import dataclass

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper
from hypercorn.utils import parse_socket_addr

from codex_serve.server.http1 import Closing, Endpoints, Http1, Link, Tasks

RECEIVE_BYTES = 262_144
CLOSE_S = 1.0
"""How long saying goodbye over TLS may take."""

LINGER_S = 5.0
"""How long a connection that closes ``LINGERING`` takes in what the peer sends.

Closing at once would answer those bytes with a reset, and a reset makes the
peer lose the response that it has not read yet, such as the 413 that says why.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a connection waits, in seconds.

    Attributes:
      write_timeout_s: for one write to be taken by the peer's machine.
      header_timeout_s: from the accept, or the end of an exchange, until the
        head of the next request is whole.
      body_timeout_s: from there until its body is whole.
    """

    write_timeout_s: float
    header_timeout_s: float
    body_timeout_s: float


class Connection:
    """Serves HTTP, or HTTPS where ``tls`` is given, on an accepted stream. Owns it."""

    def __init__(
        self,
        transport: trio.SocketStream,
        tls: ssl.SSLContext | None,
        app: AppWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        limits: Limits,
    ) -> None:
        self._transport = transport
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = transport
        if tls is not None:
            # The handshake is part of the first read, and so under its deadline.
            self._stream = trio.SSLStream(transport, tls, server_side=True, https_compatible=True)
        self._app = app
        self._config = config
        self._context = context
        self._limits = limits
        self._scope = trio.CancelScope()
        self._sending = trio.Lock()
        self._closing = Closing.AT_ONCE
        self._idle = True

    def __repr__(self) -> str:
        return f"<Connection {'idle' if self._idle else 'busy'}>"

    async def run(self) -> None:
        """Serve until either side closes, then close.

        Raises:
          ExceptionGroup: what went wrong in here; the stream is closed.

        Cancellation:
          Ends what the connection's requests started, then resets it.
        """
        http: Http1 | None = None
        try:
            endpoints = self._endpoints()
            with self._scope:
                tasks = Tasks()
                async with tasks:
                    http = Http1(
                        self._app,
                        self._config,
                        self._context,
                        tasks,
                        endpoints,
                        Link(self._send, self._set_idle, self._hang_up),
                        self._limits.body_timeout_s,
                    )
                    self._set_idle(True)
                    await self._receive(http, tasks)
            if self._closing is Closing.LINGERING:
                await self._linger()
        except OSError:
            pass  # the peer was gone before its address could be asked for
        finally:
            unfinished = http is not None and http.unfinished
            if self._closing is Closing.RESET or unfinished:
                self._set_reset_on_close()
                await trio.aclose_forcefully(self._stream)
            else:
                with trio.move_on_after(CLOSE_S), suppress(trio.BrokenResourceError):
                    await self._stream.aclose()

    def close_if_idle(self) -> None:
        """Close now if no request is being answered; else once it has been."""
        if self._idle:
            self._scope.cancel()

    def _endpoints(self) -> Endpoints:
        sock = self._transport.socket
        return Endpoints(
            tls=self._stream is not self._transport,
            client=parse_socket_addr(sock.family, sock.getpeername()),
            server=parse_socket_addr(sock.family, sock.getsockname()),
        )

    async def _receive(self, http: Http1, tasks: Tasks) -> None:
        """Feed what comes to ``http``; when the peer leaves, the connection ends.

        The task that has read a request answers it, and another one reads on: so
        no answer has to wait for a task to have its turn.
        """
        while True:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError:
                break
            if not data:
                break
            if answer := await http.receive(bytes(data)):
                tasks.spawn(self._receive, http, tasks)
                await answer()
                return
        self._scope.cancel()

    async def _send(self, data: bytes) -> None:
        """Write ``data``; where that fails or takes too long, the connection ends."""
        await trio.lowlevel.checkpoint_if_cancelled()  # what is over says nothing more
        if rest := self._send_at_once(data):
            await self._send_all(rest)
        await trio.lowlevel.checkpoint_if_cancelled()  # as it is where we hang up

    def _send_at_once(self, data: bytes) -> memoryview:
        """Write what can go out without waiting, and return the rest.

        That is nearly always all, and spares the lock, the time limit and trio's
        checks: a tenth of ``GET /models``.
        """
        rest = memoryview(data)
        if self._stream is self._transport and not self._sending.locked():
            try:
                rest = rest[os.write(self._transport.socket.fileno(), rest) :]
            except BlockingIOError:
                pass
            except OSError:
                self._hang_up(Closing.RESET)
                return memoryview(b"")
        return rest

    async def _send_all(self, data: memoryview) -> None:
        async with self._sending:
            try:
                with trio.move_on_after(self._limits.write_timeout_s):
                    await self._stream.send_all(data)
                    return
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            self._hang_up(Closing.RESET)

    def _set_idle(self, idle: bool) -> None:
        self._idle = idle
        self._scope.deadline = (
            trio.current_time() + self._limits.header_timeout_s if idle else float("inf")
        )

    def _hang_up(self, closing: Closing) -> None:
        if not self._scope.cancel_called:
            self._closing = closing
        self._scope.cancel()

    async def _linger(self) -> None:
        """Say that no more comes, and let the peer finish reading."""
        with trio.move_on_after(LINGER_S):
            try:
                if isinstance(self._stream, trio.SocketStream):  # TLS cannot close one way
                    await self._stream.send_eof()
                while await self._stream.receive_some(RECEIVE_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def _set_reset_on_close(self) -> None:
        """Make the close a reset, which also drops what was never taken."""
        linger = struct.pack("ii", 1, 0)
        self._transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
