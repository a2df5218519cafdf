"""The whole server: its parts put together, started, and stopped.

The rule this file guards: a server that was told to stop stops. It is the one
file that knows every folder.
"""

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import cast

import trio
from hypercorn.typing import ASGIFramework

from codex_serve.api.auth import TokenGate, load_tokens
from codex_serve.backends.select import open_backend
from codex_serve.core.config import Config
from codex_serve.runs.registry import Registry
from codex_serve.runs.run import Runner
from codex_serve.server.file_limit import reserve_descriptors
from codex_serve.server.http_server import HttpServer
from codex_serve.server.listening import is_loopback, listen
from codex_serve.server.malloc import give_back_large_blocks
from codex_serve.server.tls import load_tls

logger = logging.getLogger(__name__)

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
            _loading("codex_serve.api.app"),
            open_backend(config, reserve.max_files) as backend,
        ):
            from codex_serve.api.app import create_app  # waits until it is loaded

            if not tokens and not all(map(is_loopback, listeners)):
                logger.warning(
                    "no token is set: whoever reaches this address can run %s as this user; "
                    "set CODEX_SERVE_TOKEN_FILE, or HOST=127.0.0.1",
                    ", ".join(config.clis),
                )
            runner = Runner(backend, registry, config.run_timeout_s)
            app = cast(ASGIFramework, create_app(config, runner))
            app = TokenGate(app, tokens) if tokens else app
            http = HttpServer(app, tls, reserve.max_connections, config)
            async with trio.open_nursery() as connections:
                await http.accept(listeners, connections, until=stop.wait())
                await http.close_idle()
                await _drain(registry, hurry, config.shutdown_grace_s)
                closing_s = backend.ending_s + CLOSING_S
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
