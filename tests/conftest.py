"""Fixtures: real servers with real commands behind them."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from codex_serve.supervision.kernel import become_subreaper
from containers import build
from engine import Mark
from serving import Server

StartServer = Callable[..., Server]

TOOLS = {"CLI_LIST": "sh,python3,cat,true,no-such-cli"}


@pytest.fixture(scope="session", autouse=True)
def adopt_orphans() -> None:
    """Take in what killed servers leave, as the main process of a good system does.

    Some containers have a main process that reaps nothing; their zombies would
    slow down every look at the processes.
    """
    become_subreaper()


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers that the test's end stops."""
    with ExitStack() as servers:

        def start(
            env: Mapping[str, str] | None = None,
            args: Sequence[str] = (),
            *,
            module: str = "codex_serve",
            prefix: Sequence[str] = (),
        ) -> Server:
            command = [*prefix, sys.executable, "-m", module]
            return servers.enter_context(Server({**TOOLS, **(env or {})}, args, command))

        yield start


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server with default settings, shared by the tests that leave it as it is."""
    with Server(TOOLS) as server:
        yield server


@pytest.fixture
def mark() -> Iterator[Mark]:
    """A label for the test's containers, which are removed at its end, if there are any."""
    mark = Mark()
    yield mark
    mark.remove_all()


@pytest.fixture(scope="session")
def server_image() -> str:
    """The server's image, built from this checkout."""
    return build("build.sh", "codex-serve-test")


@pytest.fixture(scope="session")
def cli_image() -> str:
    """The image with the CLIs, built from this checkout."""
    return build("codex.docker/build.sh", "codex-cli-env-test")
