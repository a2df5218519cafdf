"""Choosing how commands are started, and seeing that it works here."""

import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from codex_serve.core.config import Config, Isolation
from codex_serve.core.errors import ConfigError, LaunchError
from codex_serve.processes import linux
from codex_serve.processes.capture import capture
from codex_serve.processes.child import Starter
from codex_serve.processes.command import Launch
from codex_serve.processes.keeper import keep
from codex_serve.processes.pool import open_pool
from codex_serve.processes.process_group import ProcessGroupStarter

logger = logging.getLogger(__name__)

TRIAL_S = 10.0


@asynccontextmanager
async def open_starter(
    config: Config, max_files: int, lease_fd: int | None = None
) -> AsyncIterator[Starter]:
    """Offer the starter that ``config.isolation`` names, for this whole process.

    Args:
      config: names it.
      max_files: the soft limit of open files for commands, where it differs
        from this process's own and the starter can set it.
      lease_fd: a descriptor for the helpers of the starter to hold while they live.

    Raises:
      ConfigError: it does not work on this machine. There is no fallback: who
        asked for a fence must not get less without knowing.
    """
    if config.isolation is Isolation.PROCESS_GROUP:
        logger.warning(
            "RUN_ISOLATION=process-group: what leaves its process group outlives its run, "
            "and so does everything if the server is killed"
        )
        yield ProcessGroupStarter(config.kill_grace_s)
        return
    pid_namespace = config.isolation is Isolation.PIDNS
    try:
        linux.become_subreaper()
    except OSError as error:
        raise ConfigError(
            f"RUN_ISOLATION must be one that works here, not {config.isolation}: "
            f"this kernel has no subreapers (prctl, PR_SET_CHILD_SUBREAPER): {error.strerror}"
        ) from error
    try:
        async with open_pool(
            config.kill_grace_s,
            pid_namespace=pid_namespace,
            max_files=max_files,
            lease_fd=lease_fd,
        ) as pool:
            if pid_namespace:
                # Where it is refused, this raises.
                launch = Launch((sys.executable, "-I", "-S", "-c", ""), dict(os.environ))
                await capture(pool, launch, TRIAL_S)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep, "reaping orphans", pool.reap_orphans)
                yield pool
                nursery.cancel_scope.cancel()
    except* LaunchError as group:
        raise ConfigError(
            f"RUN_ISOLATION must be one that works here, not {config.isolation}: "
            f"{group.exceptions[0]}"
        ) from group
