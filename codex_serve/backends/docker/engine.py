"""What the server asks of the container engine beside running containers.

Why a container did not start or was killed, and at the server's start the
removal of the containers that dead servers left.
"""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import trio

from codex_serve.backends.docker.command import (
    EXPIRY_LABEL,
    INSTANCE_LABEL,
    DockerClient,
    container_name,
)
from codex_serve.backends.docker.leases import Leases, take_free_leases
from codex_serve.core.config import DockerConfig
from codex_serve.core.errors import SERVER_FAILED, ChildLostError, LaunchError
from codex_serve.core.execution import RunInfo
from codex_serve.processes.capture import Captured, capture
from codex_serve.processes.child import Starter
from codex_serve.processes.command import Launch
from codex_serve.processes.removal_limits import WATCH_S

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
"""How long the engine may take to answer."""

SWEEP_INTERVAL_S = 1.0
RETRY_S = 30.0
KILLED = 137
"""The exit code of a container whose main process got SIGKILL, such as for want of memory."""

_LISTING = f'{{{{.ID}}}}\t{{{{.Label "{INSTANCE_LABEL}"}}}}\t{{{{.Label "{EXPIRY_LABEL}"}}}}'


@dataclass(frozen=True, slots=True)
class Container:
    """A container of some server; ``expires_at`` in seconds since the epoch."""

    id: str
    instance: str
    expires_at: float


def parse_listing(text: str) -> list[Container]:
    """Read lines of id, instance and expiry, between them tabs.

    What has no number for an expiry never expires.
    """
    found = []
    for line in text.splitlines():
        container_id, instance, expiry = line.split("\t", 2)
        expires_at = float(expiry) if expiry.isdecimal() else math.inf
        found.append(Container(container_id, instance, expires_at))
    return found


def abandoned(containers: Iterable[Container], leases: Leases, now: float) -> list[str]:
    """Return the ids of those that nobody will remove any more.

    A dead instance's are. A living one's are not, however old. Of an instance
    that is unknown here, because it keeps its leases elsewhere, those that have expired.
    """
    return [
        container.id
        for container in containers
        if container.instance in leases.dead
        or (container.instance not in leases.known and container.expires_at < now)
    ]


@dataclass(frozen=True, slots=True)
class Containers:
    """The engine, seen by one server.

    Attributes:
      start: starts the client.
      docker: the operator's settings.
      client: what asks the engine.
      instance: the server's id.
    """

    starter: Starter
    docker: DockerConfig
    client: DockerClient
    instance: str

    async def explain(self, run: RunInfo, exit_code: int) -> str:
        """Return what there is to say about an exit code of ``docker run``, a line or nothing."""
        try:
            if exit_code == SERVER_FAILED:
                return await self._explain_failure()
            if exit_code == KILLED and await self._ran_out_of_memory(run):
                limit = self.docker.memory
                return f"The container ran out of memory: DOCKER_MEMORY allows it {limit}.\n"
        except (LaunchError, ChildLostError) as error:
            return f"{error}\n"
        return ""

    async def _explain_failure(self) -> str:
        version = await self._ask("version", "--format={{.Server.Version}}")
        if version.returncode != 0:
            return (
                "The server cannot reach its container engine: the engine must run, and the "
                "server's user must be allowed to use its socket (DOCKER_HOST names another).\n"
            )
        image = self.docker.image
        if (await self._ask("image", "inspect", "--format={{.Id}}", image)).returncode != 0:
            pull = "set DOCKER_PULL=missing" if self.docker.pull == "never" else "have it pulled"
            return (
                f"The engine has no image {image!r} (CODEX_DOCKER_IMAGE): build it there, as "
                f"codex.docker/build.sh does, or {pull}.\n"
            )
        return ""

    async def _ran_out_of_memory(self, run: RunInfo) -> bool:
        name = container_name(self.instance, run)
        events = await self._ask(
            *("events", "--filter=event=oom", f"--filter=container={name}", "--format={{.Action}}"),
            *(f"--since={math.floor(run.started_at)}", f"--until={time.time():.9f}"),
        )
        return "oom" in events.stdout

    async def sweep(self) -> None:
        """Remove what dead servers have left. A task for the start of a server.

        What a dying server has just asked for may yet appear, so it looks again
        for ``WATCH_S``. An engine that does not answer is asked again later.
        """
        with take_free_leases(Path(self.docker.lease_dir)) as leases:
            watch_s = WATCH_S if leases.dead else 0.0
            nothing_since = trio.current_time()
            while True:
                left = await self._list_abandoned(leases)
                if left is None:
                    nothing_since = trio.current_time()
                    await trio.sleep(RETRY_S)
                    continue
                if left:
                    nothing_since = trio.current_time()
                    logger.warning("removing %d containers that a dead server left", len(left))
                    await self._ask("rm", "--force", "--volumes", *left)
                elif trio.current_time() - nothing_since >= watch_s:
                    return
                await trio.sleep(SWEEP_INTERVAL_S)

    async def _list_abandoned(self, leases: Leases) -> list[str] | None:
        """Return the ids of the abandoned containers, ``None`` where the engine does not say."""
        label = f"--filter=label={INSTANCE_LABEL}"
        try:
            listing = await self._ask("ps", "--all", "--no-trunc", label, f"--format={_LISTING}")
        except (LaunchError, ChildLostError) as error:
            listing = Captured(None, "", str(error))
        if listing.returncode != 0:
            reason = listing.stderr.strip() or "no answer"
            logger.warning("cannot look for containers that a dead server left: %s", reason)
            return None
        return abandoned(parse_listing(listing.stdout), leases, time.time())

    async def _ask(self, *args: str) -> Captured:
        launch = Launch(argv=(self.client.path, *args), env=self.client.environ)
        return await capture(self.starter, launch, ANSWER_S)
