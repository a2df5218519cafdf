"""Fixtures: real servers with real commands behind them; and what tests need of the machine."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

import pytest

from codex_serve.processes.linux import become_subreaper
from containers import build
from engine import Mark
from needs import PROBES, required
from serving import Server

StartServer = Callable[..., Server]

LACKS = pytest.StashKey[dict[str, str | None]]()
"""Why a need is not met, ``None`` where it is, for each that was tried."""

TOOLS = {"CLI_LIST": "sh,python3,cat,true,no-such-cli"}


def lack(config: pytest.Config, need: str) -> str | None:
    """Why ``need`` is not met on this machine, ``None`` where it is."""
    found = config.stash.setdefault(LACKS, {})
    if need not in found:
        found[need] = PROBES[need]()
    return found[need]


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which have the same needs
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs what is not there, or let it fail where that is required."""
    needs = [need for marker in item.iter_markers("needs") for need in marker.args]
    lacking = {need: why for need in needs if (why := lack(item.config, need)) is not None}
    if lacking:
        words = "; ".join(f"needs {need}: {why}" for need, why in lacking.items())
        if any(required(need, os.environ) for need in lacking):
            pytest.fail(words, pytrace=False)
        pytest.skip(words)


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
