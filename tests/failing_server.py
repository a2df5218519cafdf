"""The same server, but something in it raises what nobody expects.

    python -m failing_server

The run's variable WHEN tells when: ``before`` anything is answered, the same in
a ``group``, or ``after`` the first event.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import trio

from codex_serve.backends import select
from codex_serve.cli.main import main
from codex_serve.core.config import Config
from codex_serve.core.execution import Ended
from codex_serve.processes.child import Child, Starter
from codex_serve.processes.command import Launch
from codex_serve.processes.starters import open_starter


class UnexpectedError(Exception):
    pass


async def fail() -> NoReturn:
    raise UnexpectedError


class FailingStarter:
    def __init__(self, starter: Starter) -> None:
        self._starter = starter

    async def start(self, launch: Launch, stdio: tuple[int, ...], limit_s: float) -> "FailingChild":
        match launch.env["WHEN"]:
            case "before":
                await fail()
            case "group":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail)
                    nursery.start_soon(fail)
        return FailingChild(await self._starter.start(launch, stdio, limit_s))


class FailingChild:
    def __init__(self, child: Child) -> None:
        self.end = child.end
        self.close = child.close

    async def wait(self) -> Ended:
        await trio.sleep(0.2)
        return await fail()


@asynccontextmanager
async def open_failing_starter(
    config: Config, max_files: int, lease_fd: int | None
) -> AsyncIterator[Starter]:
    async with open_starter(config, max_files, lease_fd) as starter:
        yield FailingStarter(starter)


if __name__ == "__main__":
    setattr(select, "open_starter", open_failing_starter)  # noqa: B010 - mypy sees an import
    main()
