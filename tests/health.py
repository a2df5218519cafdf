"""Asking for the health of a server."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from serving import PYTHONPATH, TIMEOUT_S


def check(
    port: int, env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*prefix, sys.executable, "-m", "codex_serve.cli.healthcheck"],
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "PORT": str(port), **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )


def assert_healthy(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def assert_unhealthy(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("codex-serve: ")
    assert reason in line
