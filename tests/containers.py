"""Images made from this checkout, and the server in a container of one.

They are built as users build them, by the two ``build.sh``; ``PYTHON_IMAGE``,
``BASE_IMAGE`` and ``NODE_IMAGE`` name other base images.
"""

import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from engine import NEEDS_ENGINE, docker
from serving import Server

ROOT = Path(__file__).parent.parent
SOCKET = Path("/var/run/docker.sock")
WITH_SOCKET = f"--volume={SOCKET}:{SOCKET}"


RUNS_IMAGES = [
    *NEEDS_ENGINE,
    pytest.mark.image,
    # Whichever of these tests is the first has the images to build.
    pytest.mark.timeout(900),
]
"""For tests of what is in an image: the Python that runs the test has no part in it."""


def build(script: str, name: str) -> str:
    """Build an image by one of the project's scripts, and return its id.

    The id, because another checkout may give the name to an image of its own.
    """
    done = subprocess.run(
        [ROOT / script, name], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:].decode()
    return docker("inspect", "--type=image", "--format={{.Id}}", name)


def unique_name() -> str:
    """A name for a container or a volume that no other has."""
    return f"codex-serve-test-{secrets.token_hex(4)}"


class ContainerServer(Server):
    """A server whose process is the main process of a container."""

    def __init__(
        self, image: str, docker_args: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.name = unique_name()
        variables = [f"--env={name}={value}" for name, value in (env or {}).items()]
        super().__init__(
            {},
            command=[
                *("docker", "run", "--rm", "--network=host", f"--name={self.name}"),
                *(*variables, *docker_args, image, "codex-serve"),
            ],
        )
        self._pid = int(docker("inspect", "--format={{.State.Pid}}", self.name))

    def __exit__(self, *exc_info: object) -> None:
        """Stop the server, and remove its container if it does not stop."""
        try:
            super().__exit__(*exc_info)
        finally:
            subprocess.run(
                ["docker", "rm", "--force", "--volumes", self.name],
                capture_output=True,
                check=False,
            )

    @property
    def pid(self) -> int:
        return self._pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)
