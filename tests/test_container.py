"""The server as the main process of a container, with the engine's default settings.

Needs a Docker engine; ``test.sh`` says where there is none. The image is built
from our ``Dockerfile``; ``PYTHON_IMAGE`` names another base image.
"""

import os
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving import Server
from test_cleanup import (
    Battery,
    battery,
    disconnect,
    kill_server,
    kill_supervisors_then_fork_server,
    let_exit,
    settings_for,
    terminate_server,
)

ROOT = Path(__file__).parent.parent
IMAGE = "codex-serve-test"


def docker(*args: str) -> str:
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def _engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get("REQUIRE_DOCKER") != "1" and not _engine_answers(),
        reason="no Docker engine answers",
    ),
]


@pytest.fixture(scope="module")
def image() -> str:
    base = os.environ.get("PYTHON_IMAGE")
    arguments = ["--build-arg", f"PYTHON_IMAGE={base}"] if base else []
    docker("build", "--quiet", "--tag", IMAGE, *arguments, str(ROOT))
    return IMAGE


class ContainerServer(Server):
    """A server whose process is the main process of a container."""

    def __init__(self, docker_args: Sequence[str], env: dict[str, str]) -> None:
        self.name = f"codex-serve-test-{secrets.token_hex(4)}"
        variables = [f"--env={name}={value}" for name, value in env.items()]
        super().__init__(
            {},
            command=[
                *("docker", "run", "--rm", "--network=host", f"--name={self.name}"),
                *(*variables, *docker_args, IMAGE, "codex-serve"),
            ],
        )
        self._pid = int(docker("inspect", "--format={{.State.Pid}}", self.name))

    @property
    def pid(self) -> int:
        return self._pid

    def signal(self, number: signal.Signals) -> None:
        os.kill(self._pid, number)


@contextmanager
def container(docker_args: Sequence[str], env: dict[str, str]) -> Iterator[ContainerServer]:
    with ContainerServer(docker_args, env) as server:
        yield server


@pytest.mark.parametrize("user", ["0:0", "1000:1000"])
@pytest.mark.parametrize(
    "event",
    [let_exit, disconnect, terminate_server, kill_server, kill_supervisors_then_fork_server],
    ids=lambda event: event.__name__,
)
def test_nothing_is_left_in_a_default_container(
    image: str, tmp_path: Path, user: str, event: Callable[[Battery], None]
) -> None:
    folders = [f"--volume={folder}:{folder}:ro" for folder in (ROOT / "tests", tmp_path)]
    tmp_path.chmod(0o755)
    env = {**settings_for(event), "CLI_LIST": "python3"}
    with (
        container([f"--user={user}", *folders], env) as server,
        battery(server, tmp_path, event) as cells,
    ):
        assert cells.wait_for_nothing() == {}


def test_a_pid_namespace_that_is_refused_stops_the_start(image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--env=RUN_ISOLATION=pidns", image],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("codex-serve: RUN_ISOLATION must be one that works here, not pidns: ")
    assert "Operation not permitted" in line
