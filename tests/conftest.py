"""Fixtures: real servers with real commands behind them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from serving import Server

StartServer = Callable[..., Server]

TOOLS = {"CLI_LIST": "sh,python3,cat,true,no-such-cli"}


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers that the test's end stops."""
    with ExitStack() as servers:

        def start(
            env: Mapping[str, str] | None = None,
            args: Sequence[str] = (),
            module: str = "codex_serve",
        ) -> Server:
            return servers.enter_context(Server({**TOOLS, **(env or {})}, args, module))

        yield start


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with default settings, shared by the tests that leave it as it is."""
    with Server(TOOLS) as server:
        yield server
