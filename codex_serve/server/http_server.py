"""Accepting connections: each is served until it ends, too many are turned away.

The rule this file guards: an exception in one connection is one line in the
log and never the end of the server.
"""

import logging
import ssl
from collections.abc import Awaitable
from contextlib import suppress
from functools import partial

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from hypercorn.utils import repr_socket_addr

from codex_serve.core.config import Config
from codex_serve.server.connection import Connection, Limits
from codex_serve.server.http1 import refusal

logger = logging.getLogger(__name__)

MAX_REFUSALS = 32
"""How many connections beyond the limit are told so at a time; more are just closed."""

REFUSAL_S = 1.0


class HttpServer:
    """The connections of one server, and what they share."""

    def __init__(
        self, app: ASGIFramework, tls: ssl.SSLContext | None, max_connections: int, config: Config
    ) -> None:
        self._scheme = "http" if tls is None else "https"
        self._app = ASGIWrapper(app)
        self._tls = tls
        self._max_connections = max_connections
        self._refusals = trio.CapacityLimiter(MAX_REFUSALS)
        self._http_config = HypercornConfig()
        self._http_config.errorlog = logging.getLogger("codex_serve.http")
        self._http_config.include_server_header = False
        self._context = WorkerContext(None)
        self._limits = Limits(
            config.write_timeout_s, config.header_timeout_s, config.body_timeout_s
        )
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<HttpServer {len(self._connections)} connections>"

    async def accept(
        self,
        listeners: list[trio.SocketListener],
        connections: trio.Nursery,
        until: Awaitable[None],
    ) -> None:
        """Serve what comes in, in ``connections``, until ``until`` is over.

        Closes the listeners, and leaves the connections to their nursery.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(trio.serve_listeners, self._serve, listeners, handler_nursery=connections)
            )
            for listener in listeners:
                sock = listener.socket
                address = repr_socket_addr(sock.family, sock.getsockname())
                logger.info("listening on %s://%s", self._scheme, address)
            await until
            nursery.cancel_scope.cancel()

    async def close_idle(self) -> None:
        """Close the connections that answer nothing now, the others after their answer."""
        await self._context.terminated.set()
        for connection in self._connections:
            connection.close_if_idle()

    async def _serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection; what goes wrong with it is logged and stays here."""
        if len(self._connections) >= self._max_connections:
            await self._turn_away(stream)
            return
        connection = Connection(
            stream, self._tls, self._app, self._http_config, self._context, self._limits
        )
        self._connections.add(connection)
        try:
            await connection.run()
        except* Exception as group:
            logger.error("a connection failed", exc_info=group)
        finally:
            self._connections.discard(connection)

    async def _turn_away(self, stream: trio.SocketStream) -> None:
        """Say that there are too many, where that can be said briefly, and close."""
        answer = refusal(
            503,
            f"The server has its {self._max_connections} connections (MAX_CONNECTIONS); "
            "try again later.",
            "too_many_connections",
            ["retry-after: 1"],
        )
        async with stream:
            with (
                suppress(trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError),
                trio.move_on_after(REFUSAL_S),
            ):
                self._refusals.acquire_on_behalf_of_nowait(stream)
                try:
                    if self._tls is None:
                        await stream.send_all(answer)
                        await stream.send_eof()
                        while await stream.receive_some():
                            pass
                finally:
                    self._refusals.release_on_behalf_of(stream)
