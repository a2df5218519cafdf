"""``docker-compose up --build``, as the README has it, and what ``down`` leaves: nothing.

With the names of other images, so that a test does not replace those that somebody uses.
"""

import http.client
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers import ROOT, RUNS_IMAGES, unique_name
from engine import Mark, docker
from needs import find_compose
from process_tree import wait_until
from serving import TIMEOUT_S, Stream, exit_code

OVERRIDE = """\
services:
  codex-serve:
    image: codex-serve-test
    environment:
      CODEX_DOCKER_IMAGE: codex-cli-env-test
      SHUTDOWN_GRACE_SECONDS: "0.1"
  cli:
    image: codex-cli-env-test
"""


pytestmark = [*RUNS_IMAGES, pytest.mark.needs("compose")]


class Project:
    """One project of docker-compose.yml."""

    def __init__(self, override: Path, env: dict[str, str]) -> None:
        compose = find_compose()
        assert compose is not None
        override.write_text(OVERRIDE)
        self.name = unique_name()
        files = [f"--file={ROOT / 'docker-compose.yml'}", f"--file={override}"]
        self._command = [*compose, f"--project-name={self.name}", *files]
        self._env = {**os.environ, "PORT": "0", **env}

    def __call__(self, *args: str) -> str:
        done = subprocess.run(
            [*self._command, *args], env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout.strip()

    def left(self) -> list[str]:
        """What the engine has of this project."""
        label = f"--filter=label=com.docker.compose.project={self.name}"
        listings = [("ps", "--all"), ("volume", "ls"), ("network", "ls")]
        return [line for what in listings for line in docker(*what, "--quiet", label).split()]

    def connect(self) -> http.client.HTTPConnection:
        port = int(self("port", "codex-serve", "8000").rpartition(":")[2])
        return http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def answers(self) -> bool:
        connection = self.connect()
        try:
            connection.request("GET", "/clis")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):  # the engine's proxy is up before the server
            return False
        finally:
            connection.close()

    def stream(self, body: str) -> Stream:
        connection = self.connect()
        connection.request("POST", "/run", body, {"Content-Type": "application/json"})
        return Stream(connection)


@pytest.fixture
def project(tmp_path: Path, mark: Mark) -> Iterator[Project]:
    # A port of nobody, which opencode goes on trying for a minute.
    env = {"DOCKER_RUN_ARGS": mark.option, "LITELLM_BASE_URL": "http://127.0.0.1:9"}
    project = Project(tmp_path / "override.yml", env)
    try:
        project("up", "--build", "--detach")
        wait_until(project.answers, "the start of the server")
        yield project
    finally:
        project("down", "--volumes")


def test_the_readmes_deployment_answers_and_leaves_nothing(project: Project, mark: Mark) -> None:
    readme = (ROOT / "README.md").read_text().partition("docker-compose up")[2]
    found = re.search(r"^\$ (curl .*?)\n(\{.*?)```", readme, re.MULTILINE | re.DOTALL)
    assert found is not None
    command, output = found.groups()
    stream = project.stream(shlex.split(command.replace("\\\n", ""))[-1])
    assert stream.rest() == [json.loads(line) for line in output.splitlines()]
    stream.disconnect()

    waiting = project.stream('{"cli": "opencode", "args": ["--model", "m"], "stdin": "hello"}')
    wait_until(lambda: mark.containers() != [], "the container of a run")
    assert project.left() != []
    project("down", "--volumes")
    assert exit_code(waiting.rest()) == 143
    waiting.disconnect()
    assert (project.left(), mark.containers()) == ([], [])
