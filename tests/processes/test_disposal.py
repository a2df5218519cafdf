"""Removing a folder, whatever a command has made in it."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from codex_serve.processes import disposal
from codex_serve.processes.disposal import FAILED, GOING_ON, GONE, remove_folder
from process_tree import UNPRIVILEGED

DEPTH = 10_000
"""Far more levels than a path may have, a stack, or a process descriptors."""


def dig(folder: Path, depth: int) -> None:
    """Make folders in one another."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)


def remove(path: Path) -> list[int]:
    """Attempt it until it is done; return what each attempt said."""
    said: list[int] = []
    while not said or said[-1] == GOING_ON:
        said.append(remove_folder(str(path), time.monotonic() + disposal.WORK_S))
    return said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    return path


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_folder_of_any_depth_goes(folder: Path) -> None:
    dig(folder, DEPTH)
    assert remove(folder)[-1] == GONE
    assert not os.path.lexists(folder)


def test_it_needs_few_descriptors_and_no_deep_stack(folder: Path) -> None:
    dig(folder, 300)
    code = (
        "import resource, sys, time; sys.path.insert(0, sys.argv[1]); sys.setrecursionlimit(60); "
        "from codex_serve.processes.disposal import remove_folder; "
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)); "
        "sys.exit(remove_folder(sys.argv[2], time.monotonic() + 30))"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root, folder], check=False)
    assert done.returncode == GONE
    assert not os.path.lexists(folder)


def test_no_link_is_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner/file").write_text("keep")
    outside.chmod(0o755)
    (folder / "deep/er").mkdir(parents=True)
    (folder / "to-folder").symlink_to(outside)
    (folder / "to-file").symlink_to(outside / "inner/file")
    (folder / "deep/to-folder").symlink_to(outside)
    (folder / "deep/er/up").symlink_to("../../..")
    (folder / "dangling").symlink_to("nowhere")
    assert remove(folder) == [GONE]
    assert not os.path.lexists(folder)
    assert (outside / "inner/file").read_text() == "keep"


def test_a_link_or_a_file_in_place_of_the_folder_goes_alone(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(outside)
    file.write_text("")
    assert remove(link) == remove(file) == [GONE]
    assert sorted(tmp_path.iterdir()) == [outside]
    assert (outside / "inner").is_dir()


def test_names_and_kinds_of_any_sort_go(folder: Path) -> None:
    names = [b" ", b"-rf", b"*", b"new\nline", b"\xff\xfe", b"x" * 255, "größe".encode()]
    for name in names:
        place = os.path.join(os.fsencode(folder), name)
        os.makedirs(os.path.join(place, name))
        with open(os.path.join(place, b"f" + name[1:]), "wb"):
            pass
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.relpath(folder / "socket"))
    assert remove(folder) == [GONE]
    assert not os.path.lexists(folder)


def test_what_is_not_there_is_gone(tmp_path: Path) -> None:
    assert remove(tmp_path / "no/such") == [GONE]
    assert remove(tmp_path / "no") == [GONE]


def test_what_vanishes_meanwhile_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        (folder / f"{number}").mkdir()
        (folder / f"f{number}").write_text("")

    def done_by_another(remove: Callable[..., None], name: str, at: int) -> bool:
        done(remove, name, at)
        return done(remove, name, at)

    done = disposal._done
    monkeypatch.setattr(disposal, "_done", done_by_another)
    remove_folder(str(folder), time.monotonic() + 30)
    assert not os.path.lexists(folder)
    assert remove_folder(str(folder), time.monotonic() + 30) == GONE


def test_an_attempt_stops_in_time_and_the_next_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(25):
        (folder / f"{number}").write_text("")
    clock = count()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    said: list[int] = []
    left = [25]
    while not said or said[-1] == GOING_ON:
        said.append(remove_folder(str(folder), next(clock) + 10))
        left.append(len(list(folder.iterdir())) if folder.exists() else 0)
    assert said == [GOING_ON, GOING_ON, GONE]
    assert left == sorted(left, reverse=True)
    assert len(set(left)) == len(left)


def test_an_attempt_ends_where_somebody_goes_on_writing(folder: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        for number in count():
            if stop.is_set():
                return
            try:
                (folder / f"{number}").mkdir(parents=True)
                (folder / f"{number}/{number}").write_text("")
            except OSError:
                pass

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            remove_folder(str(folder), time.monotonic() + 0.2)
    finally:
        stop.set()
        writer.join()
    assert remove(folder)[-1] == GONE


@pytest.mark.parametrize("mode", ["555", "500", "300", "000"])
def test_what_is_read_only_goes_without_privileges(folder: Path, mode: str) -> None:
    script = (
        "mkdir -p a/b/c && echo >a/b/c/file && echo >a/file && chmod 400 a/file && "
        f"chmod {mode} a/b/c && chmod {mode} a/b && chmod {mode} a && chmod {mode} ."
    )
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); "
        "from codex_serve.processes.disposal import remove_folder; "
        "sys.exit(remove_folder(sys.argv[2], time.monotonic() + 30))"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run([*UNPRIVILEGED, "sh", "-c", script], cwd=folder, check=True)
    command = [*UNPRIVILEGED, sys.executable, "-I", "-S", "-c", code, root, folder]
    assert subprocess.run(command, check=False).returncode == GONE
    assert not os.path.lexists(folder)


@pytest.mark.needs("root")  # to make another user's folder
def test_what_cannot_go_is_a_failure_and_the_rest_goes(folder: Path) -> None:
    (folder / "theirs").mkdir()
    (folder / "theirs/file").write_text("")
    (folder / "ours").mkdir()
    os.chown(folder / "theirs", 12345, 12345)
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); "
        "from codex_serve.processes.disposal import remove_folder; "
        "print([remove_folder(sys.argv[2], time.monotonic() + 30) for _ in range(2)])"
    )
    root = str(Path(__file__).parents[2])
    command = [*UNPRIVILEGED, sys.executable, "-I", "-S", "-c", code, root, folder]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"{[GOING_ON, FAILED]}\n"
    assert [path.name for path in folder.iterdir()] == ["theirs"]
