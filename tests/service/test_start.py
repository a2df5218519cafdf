"""What the machine may lack is found out at the start, and said in one line."""

import os
import resource
import secrets
import signal
import sys
from pathlib import Path

import pytest

from conftest import StartServer
from health import assert_healthy, check
from process_tree import children, marked, wait_until
from serving import exit_code, refused_start

NO_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--ambient-caps=-all", "--inh-caps=-all"]


def in_mounts(script: str) -> list[str]:
    """A prefix that runs a command after ``script``, in a mount namespace of its own."""
    return ["unshare", "--mount", "sh", "-ec", f'{script}\nexec "$@"', "-"]


READ_ONLY = in_mounts("""
for folder in / /tmp /var/tmp; do
  mount --bind "$folder" "$folder"
  mount -o remount,bind,ro "$folder"
done
cd /
""")
NO_PROC = in_mounts("mount -t tmpfs none /proc")


def of_hidden_processes(hidepid: int) -> list[str]:
    """A prefix for a server that sees nothing of processes that are not quite its own."""
    return [*in_mounts(f"mount -t proc -o hidepid={hidepid},gid=4242 proc /proc"), *NO_CAPABILITIES]


@pytest.mark.parametrize("isolation", ["subreaper", "pidns"])
def test_a_kernel_without_subreapers_is_refused(isolation: str) -> None:
    prefix = [sys.executable, str(Path(__file__).parents[1].joinpath("no_subreapers.py"))]
    line = refused_start(env={"RUN_ISOLATION": isolation}, prefix=prefix)
    assert f"not {isolation}: this kernel has no subreapers" in line


@pytest.mark.needs("mounts")
@pytest.mark.parametrize("isolation", ["subreaper", "pidns"])
def test_a_machine_without_proc_is_refused(isolation: str) -> None:
    line = refused_start(env={"RUN_ISOLATION": isolation}, prefix=NO_PROC)
    assert "/proc does not show the processes" in line


@pytest.mark.needs("pidns")
def test_a_proc_that_shows_the_processes_of_others_is_refused() -> None:
    """The numbers in it are not those that a signal goes to."""
    user = ["--user", "--map-root-user"]
    line = refused_start(prefix=["unshare", *user, "--pid", "--fork"])
    assert "/proc does not show the processes" in line


@pytest.mark.slow
@pytest.mark.needs("mounts")
@pytest.mark.parametrize("hidepid", [1, 2])
def test_a_process_that_hides_in_proc_is_ended_with_what_it_started(
    start_server: StartServer, hidepid: int
) -> None:
    server = start_server({"RUN_KILL_GRACE_SECONDS": "0.3"}, prefix=of_hidden_processes(hidepid))
    marker = secrets.token_hex(8)
    code = (
        "import ctypes, os, subprocess, sys, time\n"
        "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\n"  # PR_SET_DUMPABLE
        "subprocess.Popen(['setsid', 'sh', '-c', 'sleep 60; true', sys.argv[1]])\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    for _ in range(2):
        with server.stream("python3", "-c", code, marker) as stream:
            stream.read_until("ready")
        wait_until(lambda: not marked(marker), "the end of all")
        assert exit_code(server.run("sh", "-c", "exit 3")) == 3
    assert not any("ERROR" in line for line in server.log)


@pytest.mark.slow
@pytest.mark.needs("mounts")
def test_local_mode_and_its_health_check_need_no_folder_to_write_in(
    start_server: StartServer,
) -> None:
    server = start_server(prefix=READ_ONLY)
    assert exit_code(server.run("true")) == 0
    assert_healthy(check(server.port, prefix=READ_ONLY))
    assert_healthy(check(server.port, {"CODEX_DOCKER_IMAGE": "image"}, prefix=READ_ONLY))


@pytest.mark.needs("mounts")
def test_an_entrypoint_without_a_folder_for_its_runs_is_refused() -> None:
    line = refused_start(env={"CLI_ENTRYPOINT": "/bin/sh"}, prefix=READ_ONLY)
    assert line.startswith("codex-serve: CLI_ENTRYPOINT needs a folder")


@pytest.mark.slow
def test_a_server_of_more_than_1024_descriptors_can_replace_its_fork_server(
    start_server: StartServer,
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import os, resource, sys\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({hard}, {hard}))\n"
        "for _ in range(1100): os.set_inheritable(os.open('/dev/null', os.O_RDONLY), True)\n"
        "os.execvp(sys.argv[1], sys.argv[1:])\n"
    )
    server = start_server(prefix=[sys.executable, "-c", code])
    (fork_server,) = children(server.pid)
    os.kill(fork_server, signal.SIGKILL)
    for _ in range(3):
        assert exit_code(server.run("sh", "-c", "sleep 0.1; exit 3")) == 3
    assert sum("fork server died" in line for line in server.log) == 1
