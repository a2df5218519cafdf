"""The server as the main process of a container, with the engine's default settings."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from battery import (
    Battery,
    battery,
    disconnect,
    kill_server,
    kill_supervisors_then_fork_server,
    let_exit,
    settings_for,
    terminate_server,
)
from containers import ROOT, RUNS_IMAGES, ContainerServer

pytestmark = RUNS_IMAGES

AS_ROOT = ["--user=0:0", "--entrypoint=env"]  # past our entrypoint, which would not stay root
UNPRIVILEGED: list[str] = []


@pytest.mark.parametrize("user", [AS_ROOT, UNPRIVILEGED], ids=["as root", "unprivileged"])
@pytest.mark.parametrize(
    "event",
    [let_exit, disconnect, terminate_server, kill_server, kill_supervisors_then_fork_server],
    ids=lambda event: event.__name__,
)
def test_nothing_is_left_in_a_default_container(
    server_image: str, tmp_path: Path, user: list[str], event: Callable[[Battery], None]
) -> None:
    folders = [f"--volume={folder}:{folder}:ro" for folder in (ROOT / "tests", tmp_path)]
    tmp_path.chmod(0o755)
    env = {**settings_for(event), "CLI_LIST": "python3"}
    with (
        ContainerServer(server_image, [*user, *folders], env) as server,
        battery(server, tmp_path, event) as cells,
    ):
        assert cells.wait_for_nothing() == {}


def test_a_pid_namespace_that_is_refused_stops_the_start(server_image: str) -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--env=RUN_ISOLATION=pidns", server_image],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("codex-serve: RUN_ISOLATION must be one that works here, not pidns: ")
    assert "Operation not permitted" in line
