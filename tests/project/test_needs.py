"""What a machine lacks costs the tests that need it, visibly, and nothing else."""

import subprocess
import sys

import pytest

from containers import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run_pytest(*args: str, **environ: str) -> tuple[int, str]:
    """Run pytest on a machine with nothing on its ``PATH``; return its status and its words."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        cwd=ROOT,
        env={"PATH": "/nowhere", **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_tests_of_an_empty_machine_are_collected() -> None:
    status, words = run_pytest("--collect-only")
    assert status == 0, words


@pytest.mark.parametrize("environ", [{}, {"REQUIRE_ALL": "1", "REQUIRE_E2E": "0"}])
def test_a_lack_is_a_skip_that_is_listed_with_its_reason(environ: dict[str, str]) -> None:
    status, words = run_pytest("tests/e2e/test_codex.py", **environ)
    assert status == 0, words
    assert "2 skipped" in words
    assert "needs e2e: CODEX_E2E_NODE_MODULES does not name" in words


@pytest.mark.parametrize("name", ["REQUIRE_E2E", "REQUIRE_ALL"])
def test_a_lack_of_what_is_required_is_a_failure(name: str) -> None:
    status, words = run_pytest("tests/e2e/test_codex.py", **{name: "1"})
    assert status == 1
    assert "2 errors" in words
    assert "needs e2e: CODEX_E2E_NODE_MODULES does not name" in words
