"""Docker mode as a ``Backend``."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from codex_serve.backends.docker.command import DockerLauncher
from codex_serve.backends.docker.engine import Containers
from codex_serve.core.execution import Execution, RunInfo
from codex_serve.core.json_text import Prompt
from codex_serve.core.request import RunRequest
from codex_serve.processes.child import Starter
from codex_serve.processes.execution import execute
from codex_serve.processes.removal_limits import LONGEST_REMOVAL_S


@dataclass(frozen=True, slots=True)
class DockerBackend:
    """Executes requests in containers. See ``Backend``.

    Attributes:
      launcher: makes a ``docker run`` of a request.
      starter: starts the docker client.
      containers: the engine, which knows why one failed.
    """

    launcher: DockerLauncher
    starter: Starter
    containers: Containers

    @property
    def ending_s(self) -> float:
        """See ``Backend``: the engine may need its time to remove a container."""
        return LONGEST_REMOVAL_S

    def execute(
        self, info: RunInfo, request: RunRequest, prompt: Prompt
    ) -> AbstractAsyncContextManager[Execution]:
        """See ``Backend.execute``."""
        return execute(self.starter, self.launcher(request, info), prompt)

    async def explain(self, info: RunInfo, exit_code: int) -> str:
        """See ``Backend.explain``."""
        return await self.containers.explain(info, exit_code)
