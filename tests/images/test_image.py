"""What the two images hold, and how the server behaves as the one that its image starts.

Docker mode's smoke test: images built by the project's own scripts, a server in a container that
starts the CLI image beside it.
"""

import os
import re
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from containers import ROOT, RUNS_IMAGES, SOCKET, WITH_SOCKET, ContainerServer, unique_name
from engine import Mark, docker
from process_tree import wait_until
from serving import TIMEOUT_S, exit_code, text_of

pytestmark = RUNS_IMAGES

CLIS = {
    "codex": "CODEX_VERSION",
    "claude": "CLAUDE_CODE_VERSION",
    "gemini": "GEMINI_CLI_VERSION",
    "opencode": "OPENCODE_VERSION",
    "qwen": "QWEN_CODE_VERSION",
}
"""Each CLI, and the build argument that says which version is in the image."""

CLI_DOCKERFILE = (ROOT / "codex.docker" / "Dockerfile").read_text()


def default_of(argument: str) -> str:
    """What a build argument of the CLI image is when nobody gives it."""
    found = re.search(rf"^ARG {argument}=(.+)$", CLI_DOCKERFILE, re.MULTILINE)
    assert found is not None
    return found[1]


def os_release(image: str) -> dict[str, str]:
    text = docker("run", "--rm", "--entrypoint=cat", image, "/etc/os-release")
    return dict(line.split("=", 1) for line in shlex.split(text))


def test_the_cli_image_is_ubuntu_or_what_was_asked_for(cli_image: str) -> None:
    assert default_of("BASE_IMAGE").startswith("ubuntu:")
    asked_for = os.environ.get("BASE_IMAGE")
    release = os_release(cli_image)
    if asked_for:
        assert release == os_release(asked_for)
    else:
        assert release["ID"] == "ubuntu"


@pytest.mark.parametrize("cli", CLIS)
def test_each_cli_is_there_for_a_user_without_rights(cli_image: str, cli: str) -> None:
    version = docker(
        *("run", "--rm", "--init", "--user=1000:1000", "--read-only", "--tmpfs=/tmp"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", cli_image, cli, "--version"),
    )
    assert default_of(CLIS[cli]) in version


def status_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: values.split() for name, _, values in (line.partition(":") for line in lines)}


def test_the_server_is_not_root_and_may_use_the_socket(server_image: str) -> None:
    with ContainerServer(server_image, [WITH_SOCKET]) as server:
        status = status_of(server.pid)
        assert status["Name"] == ["codex-serve"]  # the main process is the server itself
        assert status["NSpid"] == [str(server.pid), "1"]
        assert status["Uid"] == ["10001"] * 4
        assert status["Gid"] == ["10001"] * 4
        assert status["Groups"] == [str(SOCKET.stat().st_gid)]


def test_without_a_socket_the_server_has_no_group_but_its_own(server_image: str) -> None:
    with ContainerServer(server_image) as server:
        status = status_of(server.pid)
        assert (status["Uid"], status["Groups"]) == (["10001"] * 4, [])


def test_a_user_who_was_named_stays(server_image: str) -> None:
    with ContainerServer(server_image, ["--user=1234:1235"]) as server:
        status = status_of(server.pid)
        assert (status["Uid"], status["Gid"]) == (["1234"] * 4, ["1235"] * 4)
        assert not any("root" in line for line in server.log)


@pytest.mark.parametrize(("mode", "uid"), [(0o660, "10001"), (0o600, "0")], ids=["0660", "0600"])
def test_a_socket_of_root_gives_its_group_or_leaves_the_server_root(
    server_image: str, tmp_path: Path, mode: int, uid: str
) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as roots:
        roots.bind(str(path))
        path.chmod(mode)
        os.chown(path, 0, 0)
        with ContainerServer(server_image, [f"--volume={path}:{SOCKET}"]) as server:
            status = status_of(server.pid)
            assert (status["Uid"], status["Groups"]) == ([uid] * 4, ["0"])
            said = [line for line in server.log if line.endswith("so the server stays root")]
            assert bool(said) == (uid == "0")


def test_a_container_that_may_not_change_its_user_serves_as_root(server_image: str) -> None:
    with ContainerServer(server_image, ["--cap-drop=ALL"]) as server:
        assert status_of(server.pid)["Uid"] == ["0"] * 4
        assert server.log[1].endswith("so the server stays root")


RUNS_SH = {"CLI_LIST": "sh", "SHUTDOWN_GRACE_SECONDS": "0.1"}
"""For a server whose runs are in containers of its own image, as there is a shell in it."""

HANGS = ("sh", "-c", "echo ready; exec sleep 600")


def test_sigterm_ends_runs_and_stops_the_server_with_exit_0(server_image: str, mark: Mark) -> None:
    env = {**RUNS_SH, "DOCKER_RUN_ARGS": mark.option, "CODEX_DOCKER_IMAGE": server_image}
    with (
        ContainerServer(server_image, [WITH_SOCKET], env) as server,
        server.stream(*HANGS) as stream,
    ):
        stream.read_until("ready")
        docker("kill", "--signal=TERM", server.name)
        assert server.process.wait(TIMEOUT_S) == 0
        assert exit_code(stream.rest()) == 143
        assert mark.containers() == []


@pytest.fixture
def volume() -> Iterator[str]:
    name = unique_name()
    docker("volume", "create", name)
    yield name
    docker("volume", "rm", name)


def test_a_new_server_removes_what_a_killed_one_left(
    server_image: str, volume: str, mark: Mark
) -> None:
    env = {**RUNS_SH, "DOCKER_RUN_ARGS": mark.option, "CODEX_DOCKER_IMAGE": server_image}
    mounts = [WITH_SOCKET, f"--volume={volume}:/var/lib/codex-serve"]
    with (
        ContainerServer(server_image, mounts, env) as killed,
        killed.stream(*HANGS) as stream,
    ):
        stream.read_until("ready")
        docker("kill", "--signal=KILL", killed.name)
        killed.process.wait(TIMEOUT_S)
    assert len(mark.containers()) == 1
    with ContainerServer(server_image, mounts, env):
        wait_until(lambda: mark.containers() == [], "the removal of what was left")


@contextmanager
def in_background(image: str, *docker_args: str) -> Iterator[str]:
    """A server as its image starts it, with nothing given on the command line."""
    name = unique_name()
    docker("run", "--detach", f"--name={name}", *docker_args, image)
    try:
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)


def test_the_health_of_the_container_is_the_servers(server_image: str) -> None:
    def health() -> str:
        return docker("inspect", "--format={{.State.Health.Status}}", name)

    # More often than the image says, so that the test is short.
    often = ("--health-interval=1s", "--health-retries=1")
    with in_background(server_image, *often) as name:
        wait_until(lambda: health() == "healthy", "a healthy server")
        docker("kill", f"--signal={signal.SIGSTOP.name}", name)
        wait_until(lambda: health() == "unhealthy", "the server's bad health")


@pytest.mark.parametrize("cli", CLIS)
def test_a_server_in_a_container_runs_each_cli_in_a_container_beside_it(
    server_image: str, cli_image: str, cli: str
) -> None:
    env = {"CODEX_DOCKER_IMAGE": cli_image, "CLI_LIST": ",".join(CLIS)}
    with ContainerServer(server_image, [WITH_SOCKET], env) as server:
        events = server.run(cli, "--version")
    assert exit_code(events) == 0, text_of(events, "stderr")
    assert default_of(CLIS[cli]) in text_of(events, "stdout")
