"""Listening, accepting, and stopping.

The rule this file guards: an exception in one connection is one line in the
log and never the end of the server, and a server that was told to stop stops.
"""

import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable
from functools import partial
from pathlib import Path

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper
from hypercorn.utils import repr_socket_addr

from codex_serve import demo
from codex_serve.app import create_app
from codex_serve.config import Config
from codex_serve.connection import Connection, Limits
from codex_serve.errors import ConfigError
from codex_serve.launchers import Launcher
from codex_serve.launchers.local import launch_local
from codex_serve.registry import Registry
from codex_serve.run import Runner
from codex_serve.supervision.starters import open_starter

logger = logging.getLogger(__name__)

BACKLOG = 1024
HEAD_TIMEOUT_S = 30.0
CLOSING_S = 5.0
"""How long the last events may take to reach their readers when the server stops."""


async def serve(config: Config) -> None:
    """Serve until a signal stops the server.

    SIGTERM or SIGINT: no more connections are taken, runs go on for
    ``config.shutdown_grace_s``, then they are ended and their streams say so.
    A second signal ends them at once.

    Raises:
      ConfigError: the address cannot be listened on.

    Cancellation:
      Ends every run and closes every connection.
    """
    for warning in config.warnings:
        logger.warning("%s", warning)
    registry = Registry()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        listeners = await _listen(config)
        async with open_starter(config) as start:
            runner = Runner(
                launcher=_launcher(config),
                start=start,
                registry=registry,
                timeout_s=config.run_timeout_s,
            )
            edge = _Edge(ASGIWrapper(create_app(config, runner)), config)
            async with trio.open_nursery() as connections:
                await _accept(edge, listeners, connections, until=_log_signal(signals))
                await edge.close_idle()
                await _drain(registry, signals, config.shutdown_grace_s)
                closing_s = config.kill_grace_s + CLOSING_S
                connections.cancel_scope.deadline = trio.current_time() + closing_s
    logger.info("stopped")


def _launcher(config: Config) -> Launcher:
    commands = {"demo": (sys.executable, "-I", str(Path(demo.__file__)))} if config.demo else {}
    return partial(launch_local, environ=dict(os.environ), commands=commands)


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
            logger.info("listening on http://%s", address)
        await until
        nursery.cancel_scope.cancel()


async def _listen(config: Config) -> list[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(config.port, host=config.host, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"HOST and PORT must be an address of this machine that is free, "
            f"not {config.host}:{config.port}: {reason}"
        ) from error


async def _log_signal(signals: AsyncIterator[int]) -> None:
    number = await anext(signals)
    logger.info("%s: stopping", signal.Signals(number).name)


async def _drain(registry: Registry, signals: AsyncIterator[int], grace_s: float) -> None:
    """Let the runs go on for ``grace_s`` or until a signal comes, then end them."""
    registry.close()
    with trio.move_on_after(grace_s):
        async with trio.open_nursery() as nursery:

            async def hurry() -> None:
                await _log_signal(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(hurry)
            await registry.wait_empty()
            nursery.cancel_scope.cancel()
    registry.shut_down_all()


class _Edge:
    """The connections of one server, and what they share."""

    def __init__(self, app: AppWrapper, config: Config) -> None:
        self._app = app
        self._http_config = HypercornConfig()
        self._http_config.errorlog = logging.getLogger("codex_serve.http")
        self._http_config.include_server_header = False
        self._context = WorkerContext(None)
        self._limits = Limits(config.write_timeout_s, HEAD_TIMEOUT_S)
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        return f"<_Edge {len(self._connections)} connections>"

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection; what goes wrong with it is logged and stays here."""
        connection = Connection(stream, self._app, self._http_config, self._context, self._limits)
        self._connections.add(connection)
        try:
            await connection.run()
        except* Exception as group:
            logger.error("a connection failed", exc_info=group)
        finally:
            self._connections.discard(connection)

    async def close_idle(self) -> None:
        """Close the connections that answer nothing now, the others after their answer."""
        await self._context.terminated.set()
        for connection in self._connections:
            connection.close_if_idle()
