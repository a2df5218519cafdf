"""Which way runs are started: local, through an entrypoint, or in containers."""

import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from codex_serve.backends import demo
from codex_serve.backends.docker.backend import DockerBackend
from codex_serve.backends.docker.command import DockerClient, DockerLauncher
from codex_serve.backends.docker.engine import Containers
from codex_serve.backends.docker.leases import hold_lease
from codex_serve.backends.local import LocalBackend, launch_local, launch_through_entrypoint
from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError
from codex_serve.core.execution import Backend
from codex_serve.processes.command import Launcher
from codex_serve.processes.keeper import keep
from codex_serve.processes.starters import open_starter


@asynccontextmanager
async def open_backend(config: Config, max_files: int) -> AsyncIterator[Backend]:
    """Offer what executes requests the way that ``config`` asks for, for this whole process.

    Args:
      config: asks for it.
      max_files: the soft limit of open files for commands.

    Raises:
      ConfigError: that way does not work on this machine.
    """
    instance = secrets.token_hex(8)
    launcher = make_launcher(config, _environ_as_utf8(), instance)
    async with AsyncExitStack() as stack:
        lease_fd = None
        if config.docker is not None:
            folder = Path(config.docker.lease_dir)
            lease_fd = stack.enter_context(hold_lease(folder, instance))
        starter = await stack.enter_async_context(open_starter(config, max_files, lease_fd))
        if not isinstance(launcher, DockerLauncher):
            yield LocalBackend(launcher, starter, config.kill_grace_s)
            return
        containers = Containers(starter, launcher.docker, launcher.client, instance)
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(keep, "looking for what dead servers left", containers.sweep)
        yield DockerBackend(launcher, starter, containers)
        nursery.cancel_scope.cancel()


def _environ_as_utf8() -> dict[str, str]:
    """Return this process's environment, read as commands get strings, whatever the locale."""
    return {
        name.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for name, value in os.environb.items()
    }


def _folder_for_runs() -> str:
    """Return the folder in which runs have theirs.

    Raises:
      ConfigError: there is none.
    """
    try:
        return os.path.abspath(tempfile.gettempdir())
    except OSError as error:
        raise ConfigError(
            "CLI_ENTRYPOINT needs a folder in which this user can make files, "
            "and there is none: TMPDIR can name one"
        ) from error


def make_launcher(config: Config, environ: Mapping[str, str], instance: str) -> Launcher:
    """Return the launcher that ``config`` asks for.

    Args:
      config: asks for it.
      environ: the environment of commands.
      instance: the server's id.

    Raises:
      ConfigError: what it needs is not on this machine.
    """
    if config.docker is not None:
        client = DockerClient.find(environ)
        if client is None:
            raise ConfigError(
                "CODEX_DOCKER_IMAGE needs the docker client, and there is no 'docker' on PATH"
            )
        return DockerLauncher(
            docker=config.docker,
            client=client,
            inherited=config.litellm,
            models=config.models,
            instance=instance,
            timeout_s=config.run_timeout_s,
            env_pass=config.env_pass,
        )
    if config.cli_entrypoint:
        entrypoint = os.path.abspath(config.cli_entrypoint)
        if not os.path.isfile(entrypoint) or not os.access(entrypoint, os.X_OK):
            raise ConfigError(
                f"CLI_ENTRYPOINT must be a program that can be executed, not {entrypoint!r}"
            )
        return partial(
            launch_through_entrypoint,
            environ=environ,
            env_pass=config.env_pass,
            entrypoint=entrypoint,
            folder=_folder_for_runs(),
        )
    commands = {"demo": (sys.executable, "-I", str(Path(demo.__file__)))} if config.demo else {}
    return partial(launch_local, environ=environ, commands=commands)
