"""Local mode: the CLI's name is the command, looked up on ``PATH``."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from codex_serve.backends.variables import PASS, overlay, passed
from codex_serve.core.execution import Execution, RunInfo
from codex_serve.core.json_text import Prompt
from codex_serve.core.request import RunRequest
from codex_serve.processes.child import Starter
from codex_serve.processes.command import Launch, Launcher, Removal
from codex_serve.processes.execution import execute


@dataclass(frozen=True, slots=True)
class LocalBackend:
    """Executes requests as processes of this machine. See ``Backend``.

    Attributes:
      launcher: makes a command of a request.
      starter: starts commands.
      ending_s: the most seconds that ending one may take.
    """

    launcher: Launcher
    starter: Starter
    ending_s: float

    def execute(
        self, info: RunInfo, request: RunRequest, prompt: Prompt
    ) -> AbstractAsyncContextManager[Execution]:
        """See ``Backend.execute``."""
        return execute(self.starter, self.launcher(request, info), prompt)

    async def explain(self, info: RunInfo, exit_code: int) -> str:
        """Leave it to the command to explain itself."""
        return ""


def launch_local(
    request: RunRequest,
    run: RunInfo,
    environ: Mapping[str, str],
    commands: Mapping[str, tuple[str, ...]],
) -> Launch:
    """Return the command for ``request``, never through a shell.

    Args:
      request: what the client asked for.
      run: not needed here.
      environ: the server's environment; the request's ``env`` overlays it, and
        the resulting ``PATH`` is the one that finds the command.
      commands: CLIs that are not found by their name, such as the demo.
    """
    command = commands.get(request.cli, (request.cli,))
    return Launch(argv=(*command, *request.args), env=overlay(environ, request.env))


def launch_through_entrypoint(
    request: RunRequest,
    run: RunInfo,
    environ: Mapping[str, str],
    env_pass: Sequence[str],
    entrypoint: str,
    folder: str,
) -> Launch:
    """Return ``ENTRYPOINT CLI ARGS``, with the name of a folder for all that the run writes.

    Args:
      request: what the client asked for.
      run: names the folder.
      environ: the server's environment; the request's ``env`` overlays it.
      env_pass: names of variables that the operator lets through to the CLI.
      entrypoint: the path of the program, such as ``docker-entrypoint.sh``.
      folder: where the run's own folder is to be. The entrypoint makes it, at
        ``CODEX_SERVE_RUN_DIR``, and it is removed when the run is over.
    """
    run_dir = f"{folder}/codex-serve-run-{run.id}"
    return Launch(
        argv=(entrypoint, request.cli, *request.args),
        env={
            **overlay(environ, request.env),
            "CODEX_SERVE_RUN_DIR": run_dir,
            PASS: passed(env_pass, request.env),
        },
        removal=Removal(("folder", run_dir)),
    )
