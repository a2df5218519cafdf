"""Local mode through an entrypoint: ENTRYPOINT CLI ARGS, and a folder that goes with the run."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import StartServer
from process_tree import UNPRIVILEGED, wait_until
from serving import Server, exit_code, refused_start, text_of

ENTRYPOINT = """#!/bin/sh
PATH=$PATH:/usr/bin:/bin
mkdir "$CODEX_SERVE_RUN_DIR" && cd "$CODEX_SERVE_RUN_DIR" || exit 73
mkdir -p deep/er && echo prompt >deep/er/file && chmod 500 deep/er
echo "$PWD"
exec "$@"
"""


@pytest.fixture
def tmp(tmp_path: Path) -> Iterator[Path]:
    """The server's folder for what is temporary."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def entrypoint(tmp_path: Path) -> Path:
    path = tmp_path / "entry point.sh"
    path.write_text(ENTRYPOINT)
    path.chmod(0o755)
    return path


@pytest.fixture
def server(start_server: StartServer, tmp: Path, entrypoint: Path) -> Server:
    env = {"CLI_ENTRYPOINT": str(entrypoint), "TMPDIR": str(tmp), "SHUTDOWN_GRACE_SECONDS": "0"}
    return start_server(env)


def test_the_entrypoint_gets_the_cli_its_arguments_and_a_folder(server: Server, tmp: Path) -> None:
    seen = set()
    for _ in range(2):
        env = {"CODEX_SERVE_RUN_DIR": "/elsewhere", "COLOUR": "blue"}
        events = server.run("sh", "-c", 'cat; echo "$COLOUR $1"', "-", "a b", stdin="hi\n", env=env)
        folder, *lines = text_of(events, "stdout").splitlines()
        assert lines == ["hi", "blue a b"]
        assert Path(folder).parent == tmp
        seen.add(folder)
        assert list(tmp.iterdir()) == []  # at the moment that the response is complete
    assert len(seen) == 2


def test_exit_codes_and_missing_clis_are_the_entrypoints(server: Server) -> None:
    assert exit_code(server.run("sh", "-c", "exit 9")) == 9
    assert exit_code(server.run("no-such-cli")) == 127


@pytest.mark.parametrize("event", ["disconnect", "terminate", "kill"])
def test_the_folder_goes_whatever_ends_the_run(server: Server, tmp: Path, event: str) -> None:
    with server.stream("sh", "-c", "exec sleep 600") as stream:
        stream.read_until("\n")
        assert len(list(tmp.iterdir())) == 1
        match event:
            case "disconnect":
                stream.disconnect()
            case "terminate":
                server.signal(signal.SIGTERM)
            case "kill":
                server.signal(signal.SIGKILL)
        wait_until(lambda: list(tmp.iterdir()) == [], "the removal of the folder")


def test_no_variable_of_a_request_keeps_the_folder(server: Server, tmp: Path) -> None:
    """What the server executes to remove it is found without the request's variables."""
    for env in ({"PATH": "/nonexistent"}, {"BASH_ENV": "/dev/null", "PYTHONHOME": "/nonexistent"}):
        events = server.run("sh", "-c", "exit 3", env=env)
        assert exit_code(events) == 3
        assert list(tmp.iterdir()) == []  # at the moment that the response is complete
    assert not [line for line in server.log if "could not remove" in line]


@pytest.mark.parametrize("isolation", ["subreaper", "process-group"])
@pytest.mark.parametrize("mode", ["555", "000"])
def test_a_read_only_folder_goes_where_the_server_has_no_privileges(
    start_server: StartServer, tmp: Path, entrypoint: Path, isolation: str, mode: str
) -> None:
    env = {"CLI_ENTRYPOINT": str(entrypoint), "TMPDIR": str(tmp), "RUN_ISOLATION": isolation}
    server = start_server(env, prefix=UNPRIVILEGED)
    script = f"mkdir -p go/x && echo >go/x/file && chmod {mode} go/x && chmod {mode} go ."
    assert exit_code(server.run("sh", "-c", script)) == 0
    assert list(tmp.iterdir()) == []
    assert not [line for line in server.log if "could not remove" in line]


@pytest.mark.slow
def test_a_deep_folder_goes_and_what_it_links_to_stays(
    server: Server, tmp: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("keep")
    code = (
        "import os, sys\n"
        "for _ in range(3_000): os.mkdir('d'); os.chdir('d')\n"
        "os.symlink(sys.argv[1], 'out')"
    )
    assert exit_code(server.run("python3", "-c", code, str(outside))) == 0
    assert list(tmp.iterdir()) == []
    assert (outside / "file").read_text() == "keep"


@pytest.mark.parametrize("kind", ["missing", "folder", "not executable"])
def test_an_entrypoint_that_cannot_be_executed_stops_the_start(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "entrypoint"
    if kind == "folder":
        path.mkdir()
    elif kind == "not executable":
        path.write_text(ENTRYPOINT)
        assert not os.access(path, os.X_OK)
    line = refused_start(env={"CLI_ENTRYPOINT": str(path)})
    assert "CLI_ENTRYPOINT must be a program that can be executed" in line
