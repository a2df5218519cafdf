"""What a test needs and a machine may lack.

A test says what it needs by the marker ``needs``, on itself, on one of its parameters or on its
module::

    @pytest.mark.needs("ipv6")

Whether it is there is found out by trying, once for each need, when the first test that needs it is
about to run. A test is skipped where something is lacking, and pytest lists what and why at its
end. ``REQUIRE_IPV6=1`` makes that a failure, and so on for each need; ``REQUIRE_ALL=1`` does it for
all but those with a 0 of their own, as in ``REQUIRE_IPV6=0``.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

NETNS = """
ip netns add "$0" || exit
ip link add "$0" type veth peer name eth0 netns "$0"
status=$?
ip netns delete "$0"
exit "$status"
"""


def refusal(*command: str) -> str | None:
    """Run ``command``; return the first line that it says if it fails, ``None`` if it works."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    if done.returncode == 0:
        return None
    return next(iter(done.stderr.splitlines()), f"{command[0]} exits with {done.returncode}")


def docker() -> str | None:
    return refusal("docker", "info")


def find_compose() -> list[str] | None:
    """The command of Compose 2, where the docker client has it, or of Compose 1."""
    if refusal("docker", "compose", "version") is None:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else None


def compose() -> str | None:
    return None if find_compose() else "there is neither docker compose nor docker-compose"


def find_nginx() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def nginx() -> str | None:
    return None if find_nginx() else "there is no nginx"


def netns() -> str | None:
    """Network namespaces, and wires between them."""
    return refusal("sh", "-c", NETNS, f"probe-{secrets.token_hex(4)}")


def pidns() -> str | None:
    """PID namespaces with a ``/proc`` of their own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return refusal("unshare", *user, "--pid", "--fork", "--mount-proc", "true")


def ipv6() -> str | None:
    try:
        with socket.socket(socket.AF_INET6) as listener:
            listener.bind(("::1", 0))
    except OSError as error:
        return str(error)
    return None


def root() -> str | None:
    return None if os.geteuid() == 0 else "the user is not root"


def mounts() -> str | None:
    """Mount namespaces, as root has them."""
    return root() or refusal("unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt")


def make_cgroup() -> Path:
    """Make a cgroup beside those that exist, where processes of this user can be moved.

    Raises:
      OSError: this user cannot, or there are none.
    """
    for folder in ("unified", "pids", "."):  # version 2 beside 1, version 1, version 2
        if (CGROUPS / folder / "cgroup.procs").exists():
            cgroup = CGROUPS / folder / f"codex-serve-test-{secrets.token_hex(4)}"
            cgroup.mkdir()
            return cgroup
    raise FileNotFoundError(f"there is no {CGROUPS}/cgroup.procs")


def cgroup() -> str | None:
    """A cgroup of one's own."""
    try:
        make_cgroup().rmdir()
    except OSError as error:
        return str(error)
    return None


def ptrace() -> str | None:
    """Tracing a process that is not a child."""
    tracer = "import sys; sys.path[:0] = sys.argv[1:]; import tracer; tracer.hold({pid})"
    folder = str(Path(__file__).parent)
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            code = tracer.format(pid=sleeper.pid)
            return refusal(sys.executable, "-c", code, folder)
        finally:
            sleeper.kill()


def e2e() -> str | None:
    """The real codex."""
    name = "CODEX_E2E_NODE_MODULES"
    return None if os.environ.get(name) else f"{name} does not name what npm installs for them"


def litellm() -> str | None:
    """The real LiteLLM proxy."""
    name = "CODEX_E2E_LITELLM"
    return None if os.environ.get(name) else f"{name} does not name the proxy's command"


PROBES: Mapping[str, Callable[[], str | None]] = {
    probe.__name__: probe
    for probe in (
        docker,
        compose,
        nginx,
        netns,
        pidns,
        ipv6,
        root,
        mounts,
        cgroup,
        ptrace,
        e2e,
        litellm,
    )
}
"""By need: what returns ``None`` where it is met, and else why it is not."""


def required(need: str, environ: Mapping[str, str]) -> bool:
    """Whether a machine that lacks ``need`` must fail."""
    of_all = environ.get("REQUIRE_ALL", "")
    return environ.get(f"REQUIRE_{need.upper()}", of_all) == "1"
