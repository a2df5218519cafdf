"""The container engine, seen by tests."""

import os
import secrets
import subprocess

import pytest

BASE_IMAGE = os.environ.get("PYTHON_IMAGE") or "python:3.13-slim"
"""An image that tests run commands in: it has ``sh`` and ``python3`` and no entrypoint."""


def docker(*args: str) -> str:
    """Call the docker client; return what it says."""
    done = subprocess.run(["docker", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


NEEDS_ENGINE = [pytest.mark.docker, pytest.mark.slow, pytest.mark.needs("docker")]


class Mark:
    """A label of one test's own, by which its containers are found, in whatever state."""

    def __init__(self) -> None:
        self.label = f"codex-serve-test={secrets.token_hex(8)}"
        self.option = f"--label={self.label}"

    def containers(self) -> list[str]:
        return docker("ps", "--all", "--quiet", f"--filter=label={self.label}").split()

    def remove_all(self) -> None:
        """Remove what a negative control has left, or a test that failed."""
        if left := self.containers():
            subprocess.run(
                ["docker", "rm", "--force", "--volumes", *left], capture_output=True, check=False
            )
