"""The same server, but with commands started the usual way: the negative control.

    python -m plain_server

``trio.lowlevel.open_process``, killed and waited for at the end: what most
servers do. The battery of ``test_cleanup.py`` must find what this leaves.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from codex_serve.backends import select
from codex_serve.cli.main import main
from codex_serve.core.config import Config
from codex_serve.core.execution import Ended
from codex_serve.processes.child import Starter
from codex_serve.processes.command import Launch
from codex_serve.processes.exec_errors import argv_with_file, file_of


class PlainChild:
    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def wait(self) -> Ended:
        return Ended(await self._process.wait())

    async def end(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def close(self) -> None:
        with trio.CancelScope(shield=True):
            await self.end()


class PlainStarter:
    async def start(self, launch: Launch, stdio: tuple[int, ...], limit_s: float) -> PlainChild:
        stdin, stdout, stderr = stdio
        with file_of(launch) as more:
            process = await trio.lowlevel.open_process(
                argv_with_file(launch, *more),
                env=launch.env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=more,
            )
        return PlainChild(process)


@asynccontextmanager
async def open_plain_starter(
    config: Config, max_files: int, lease_fd: int | None
) -> AsyncIterator[Starter]:
    yield PlainStarter()


if __name__ == "__main__":
    setattr(select, "open_starter", open_plain_starter)  # noqa: B010 - mypy sees an import
    main()
