"""A command of this machine as an ``Execution``: its pipes, and whoever watches it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from codex_serve.core.errors import ChildLostError, LaunchError
from codex_serve.core.execution import Ended
from codex_serve.core.json_text import Prompt
from codex_serve.processes.child import Child, Starter
from codex_serve.processes.command import Launch
from codex_serve.processes.exec_errors import making_room
from codex_serve.processes.pipes import OutputPipe, Stdio


class ProcessExecution:
    """See ``Execution``. Made by ``execute``."""

    def __init__(self, starter: Starter, launch: Launch, prompt: Prompt, stdio: Stdio) -> None:
        self._starter = starter
        self._launch = launch
        self._prompt = prompt
        self._stdio = stdio
        self._child: Child | None = None

    def __repr__(self) -> str:
        return f"<ProcessExecution {self._launch!r} {self._child!r}>"

    @property
    def stdout(self) -> OutputPipe:
        """See ``Execution.stdout``."""
        return self._stdio.stdout

    @property
    def stderr(self) -> OutputPipe:
        """See ``Execution.stderr``."""
        return self._stdio.stderr

    async def start(self, limit_s: float) -> None:
        """See ``Execution.start``."""
        # Before the command exists: a small prompt needs no task then.
        self._stdio.stdin.send_at_once(self._prompt)
        self._child = await self._starter.start(self._launch, self._stdio.child_fds, limit_s)
        self._stdio.close_child_fds()

    async def feed(self) -> None:
        """See ``Execution.feed``."""
        await self._stdio.stdin.send_all(self._prompt)

    async def wait(self) -> Ended:
        """See ``Execution.wait``."""
        assert self._child is not None  # it has been started
        try:
            ended = await self._child.wait()
        except (LaunchError, ChildLostError):
            self._stdio.finish()
            raise
        self._stdio.finish()
        return ended

    async def end(self) -> None:
        """See ``Execution.end``."""
        assert self._child is not None  # it has been started
        await self._child.end()
        self._stdio.finish()

    async def close(self) -> None:
        """End what has been started."""
        if self._child is not None:
            await self._child.close()


@asynccontextmanager
async def execute(
    starter: Starter, launch: Launch, prompt: Prompt
) -> AsyncIterator[ProcessExecution]:
    """Offer ``launch``, to be started. Leaving the context ends it, and closes its pipes.

    Raises:
      LaunchError: there is no room for the pipes.
    """
    with making_room():
        stdio = Stdio.open()
    with stdio:
        execution = ProcessExecution(starter, launch, prompt, stdio)
        try:
            yield execution
        finally:
            await execution.close()
