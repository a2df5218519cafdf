"""Listening, accepting, and stopping.

The rule this file guards: an exception in one connection is one line in the
log and never the end of the server, and a server that was told to stop stops.
"""

import logging
import os
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib import import_module
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework
from hypercorn.utils import repr_socket_addr

from codex_serve.auth import TokenGate, load_tokens
from codex_serve.config import Config
from codex_serve.connection import Connection, Limits
from codex_serve.descriptors import reserve_descriptors
from codex_serve.http1 import refusal
from codex_serve.listening import is_loopback, listen
from codex_serve.malloc import give_back_large_blocks
from codex_serve.modes import open_runner
from codex_serve.registry import Registry
from codex_serve.supervision.limits import LONGEST_REMOVAL_S
from codex_serve.tls import load_tls

logger = logging.getLogger(__name__)

MAX_REFUSALS = 32
"""How many connections beyond the limit are told so at a time; more are just closed."""

REFUSAL_S = 1.0
CLOSING_S = 2.0
"""How long the last events may take to reach their readers when the server stops."""


async def serve(config: Config) -> None:
    """Serve until a signal stops the server.

    SIGTERM, SIGINT or SIGHUP: no more connections are taken, runs go on for
    ``config.shutdown_grace_s``, then they are ended and their streams say so.
    A second signal ends them at once. A third ends this process, and leaves the
    rest to the supervisors of the runs.

    Raises:
      ConfigError: the address cannot be listened on.

    Cancellation:
      Ends every run and closes every connection.
    """
    for warning in config.warnings:
        logger.warning("%s", warning)
    tokens, tls = load_tokens(config), load_tls(config)
    reserve = reserve_descriptors(config.max_connections)
    give_back_large_blocks()
    registry = Registry()
    async with _stop_signals() as (stop, hurry):
        listeners = await listen(config)
        async with (
            _loading("codex_serve.app"),
            open_runner(config, reserve.max_files, registry) as runner,
        ):
            from codex_serve.app import create_app  # waits until it is loaded

            if not tokens and not all(map(is_loopback, listeners)):
                logger.warning(
                    "no token is set: whoever reaches this address can run %s as this user; "
                    "set CODEX_SERVE_TOKEN_FILE, or HOST=127.0.0.1",
                    ", ".join(config.clis),
                )
            app = cast(ASGIFramework, create_app(config, runner))
            app = TokenGate(app, tokens) if tokens else app
            edge = _Edge(app, tls, reserve.max_connections, config)
            async with trio.open_nursery() as connections:
                await _accept(edge, listeners, connections, until=stop.wait())
                await edge.close_idle()
                await _drain(registry, hurry, config.shutdown_grace_s)
                ending_s = LONGEST_REMOVAL_S if config.docker else config.kill_grace_s
                closing_s = ending_s + CLOSING_S
                connections.cancel_scope.deadline = trio.current_time() + closing_s
    logger.info("stopped")


@asynccontextmanager
async def _loading(module: str) -> AsyncIterator[None]:
    """Have ``module`` imported while the context is entered and left.

    Quart takes a third of the start, and starting the fork server a tenth,
    which is spared in this way.
    """

    async def load() -> None:
        with suppress(RuntimeError):  # no thread can be had: it is loaded where it is needed
            await trio.to_thread.run_sync(import_module, module)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load)
        yield


async def _accept(
    edge: "_Edge",
    listeners: list[trio.SocketListener],
    connections: trio.Nursery,
    until: Awaitable[None],
) -> None:
    """Put what comes in into ``connections`` until ``until`` is over; close the listeners."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(trio.serve_listeners, edge.serve, listeners, handler_nursery=connections)
        )
        for listener in listeners:
            sock = listener.socket
            address = repr_socket_addr(sock.family, sock.getsockname())
            logger.info("listening on %s://%s", edge.scheme, address)
        await until
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def _stop_signals() -> AsyncIterator[tuple[trio.Event, trio.Event]]:
    """Give what the first signal to stop sets, and what the second; the third ends the process."""
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(signal.SIGHUP)
    stop, hurry = trio.Event(), trio.Event()
    with trio.open_signal_receiver(*numbers) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, signals, stop, hurry)
            yield stop, hurry
            nursery.cancel_scope.cancel()


async def _obey(signals: AsyncIterator[int], stop: trio.Event, hurry: trio.Event) -> None:
    for event, words in ((stop, "stopping"), (hurry, "ending the runs")):
        number = await anext(signals)
        logger.info("%s: %s", signal.Signals(number).name, words)
        event.set()
    number = await anext(signals)
    logger.warning("%s: ended at once", signal.Signals(number).name)
    logging.shutdown()  # writes the last lines
    # Not by the signal: to the main process of a container its own signals do nothing.
    os._exit(128 + number)


async def _drain(registry: Registry, hurry: trio.Event, grace_s: float) -> None:
    """Let the runs go on for ``grace_s`` or until ``hurry`` is set, then end them."""
    registry.close()
    with trio.move_on_after(grace_s):
        async with trio.open_nursery() as nursery:

            async def cut_short() -> None:
                await hurry.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(cut_short)
            await registry.wait_empty()
            nursery.cancel_scope.cancel()
    registry.shut_down_all()


class _Edge:
    """The connections of one server, and what they share."""

    def __init__(
        self, app: ASGIFramework, tls: ssl.SSLContext | None, max_connections: int, config: Config
    ) -> None:
        self.scheme = "http" if tls is None else "https"
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
        return f"<_Edge {len(self._connections)} connections>"

    async def serve(self, stream: trio.SocketStream) -> None:
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

    async def close_idle(self) -> None:
        """Close the connections that answer nothing now, the others after their answer."""
        await self._context.terminated.set()
        for connection in self._connections:
            connection.close_if_idle()
