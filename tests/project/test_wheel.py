"""The wheel alone is the whole program: installed and started outside of the checkout."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from serving import Server, exit_code, text_of

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.image, pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str, cwd: Path = ROOT) -> None:
    environ = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run("./build.sh", "--wheel", str(folder))
    (wheel,) = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_each_file_of_the_package_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    packed = {name for name in names if name.startswith("codex_serve/")}
    package = ROOT / "codex_serve"
    kept = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == kept
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert re.search("^License-Expression: Apache-2.0$", text, re.MULTILINE)


def test_the_demo_runs_from_the_wheel_outside_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    env = tmp_path / "env"
    run(sys.executable, "-m", "venv", str(env))
    pip = [str(env / "bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--require-hashes", "-r", str(ROOT / "requirements.txt"))
    run(*pip, "--no-deps", str(wheel), cwd=tmp_path)
    command = ["env", "-C", str(tmp_path), "-u", "PYTHONPATH", str(env / "bin/codex-serve")]
    with Server({}, ["--demo"], command) as server:
        events = server.run("demo", stdin="Say hello")
    assert exit_code(events) == 0
    assert "hello" in text_of(events, "stdout")
