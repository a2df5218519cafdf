"""The documents say what the code does."""

import re
import shlex
from pathlib import Path

from codex_serve.core.config import Config
from conftest import StartServer

ROOT = Path(__file__).parents[2]


class Recorder(dict[str, str]):
    """An environment that remembers what was asked of it."""

    def __init__(self) -> None:
        self.asked: set[str] = set()

    def get(self, name: str, default: object = None) -> object:  # type: ignore[override]
        self.asked.add(name)
        return default


def test_the_table_of_settings_has_each_variable_once() -> None:
    environ = Recorder()
    Config.from_environ(environ)
    table = (ROOT / "docs/configuration.md").read_text().partition("\n## ")[0]
    first_cells = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    rows = [name for cell in first_cells for name in re.findall(r"`([A-Z_]+)`", cell)]
    assert sorted(rows) == sorted(environ.asked)


def test_the_readme_prints_what_its_first_command_prints(start_server: StartServer) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^\$ (curl .*?)\n(\{.*?)```", readme, re.MULTILINE | re.DOTALL)
    assert found is not None
    command, output = found.groups()
    curl, options, url, _, header, _, body = shlex.split(command.replace("\\\n", ""))
    assert (curl, options, url) == ("curl", "-sN", "localhost:8000/run")
    server = start_server({"CLI_LIST": ""}, ["--demo"])
    answer = server.request("POST", "/run", body.encode(), dict([header.split(": ")]))
    assert answer.body.decode() == output


def test_the_readme_names_each_runtime_dependency() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    block = project.partition("dependencies = [")[2].partition("]")[0]
    names = set(re.findall(r'"([a-z0-9-]+)', block))
    readme = (ROOT / "README.md").read_text()
    missing = {name for name in names if not re.search(rf"^\| [^|]*\b{name}\b", readme, re.M)}
    assert not missing
