"""The whole chain with the five real CLIs, cell by cell, as a table.

    CLI (in its container, or on this host) → LiteLLM proxy → model_stand_in.py

A prompt carries a fresh nonce; a cell passes when the nonce comes back on stdout, the exit code
is the expected one, and what the stand-in received is what it should have received. The last
cells are negative controls: the same prompts with a protection taken away must fail.

    python chain.py --litellm PATH [--build] [--host-path DIR] [--only TEXT] [--results FILE]

Needs a Docker engine and a LiteLLM proxy (``pip install 'litellm[proxy]'``). With ``--host-path``,
a folder that holds the CLIs and Node 22 on this host, local mode is tried as well. Runs one
cell at a time. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
IMAGE = "craftslab/codex-cli-env:latest"
CLIS = ("codex", "claude", "gemini", "opencode", "qwen")
KEY = "sk-chain-key"
MODEL = "lab-model"
CELL_TIMEOUT_S = 180

HARDENED = (
    *("--user", "1000:1000", "--read-only", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges", "--tmpfs", "/tmp"),
)
WITH_HOME = ("--tmpfs", "/home/u:uid=1000,gid=1000,exec", "-e", "HOME=/home/u")
ENTRYPOINT_IN_IMAGE = "/usr/local/bin/docker-entrypoint.sh"

# What takes a prompt past the proxy, or to another model, unless the entrypoint leaves it out.
OTHER_ACCOUNTS = {
    **dict.fromkeys(
        (
            *("CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_BEDROCK"),
            *("CLAUDE_CODE_USE_ANTHROPIC_AWS", "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD"),
            *("CLAUDE_CODE_USE_VERTEX", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_GCA"),
        ),
        "1",
    ),
    "ANTHROPIC_UNIX_SOCKET": "/nowhere",
    **dict.fromkeys(
        (
            *("ANTHROPIC_MODEL", "ANTHROPIC_DEFAULT_OPUS_MODEL", "ANTHROPIC_DEFAULT_SONNET_MODEL"),
            *("ANTHROPIC_SMALL_FAST_MODEL", "OPENAI_MODEL", "GEMINI_MODEL", "QWEN_MODEL"),
        ),
        "another-model",
    ),
    **dict.fromkeys(("ANTHROPIC_API_KEY", "OPENAI_API_KEY", "GOOGLE_API_KEY"), "another-key"),
    "OPENCODE_CONFIG_CONTENT": '{"enabled_providers": ["opencode"]}',
}


class ChainError(Exception):
    """The chain cannot be set up on this machine."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of one CLI and what must come of it."""

    name: str
    cli: str
    args: tuple[str, ...] = ()
    prompt: str = "Repeat this and nothing else: {nonce}"
    flags: tuple[str, ...] = ()  # of docker run
    env: dict[str, str] = field(default_factory=dict)
    late_s: float = 0  # the prompt comes this long after the start
    local: bool = False
    without: str = ""  # a sed script that takes a protection out of the entrypoint
    exit_code: int | None = 0  # None: whatever it is
    answers: bool = True  # the nonce is on stdout
    leaks: bool = False  # the stand-in got to see /etc/passwd


@dataclass(frozen=True, slots=True)
class Result:
    cell: Cell
    seconds: float
    exit_code: int | str
    answered: bool
    leaked: bool
    requests: int
    trouble: tuple[str, ...]
    stderr: str

    def row(self) -> str:
        """Return the result as a line of a Markdown table."""
        columns = (
            self.cell.name,
            self.cell.cli,
            self.exit_code,
            "yes" if self.answered else "no",
            self.requests,
            f"{self.seconds:.1f}",
            "; ".join(self.trouble) or "none",
        )
        return f"| {' | '.join(map(str, columns))} |"


def cells(local: bool) -> Iterator[Cell]:
    """Every cell, in the order in which they run."""
    by_env = {"LITELLM_MODEL": MODEL}
    with_model = ("--model", MODEL)
    for cli in CLIS:
        yield Cell("root, LITELLM_MODEL", cli, env=by_env)
        yield Cell("root, --model", cli, with_model)
    for cli in CLIS:
        if cli == "opencode":
            yield Cell("root, no model", cli, exit_code=78, answers=False)
        else:
            yield Cell("root, no model", cli)
    for cli in CLIS:
        yield Cell("hardened, LITELLM_MODEL", cli, flags=HARDENED, env=by_env)
        yield Cell("hardened, --model", cli, with_model, flags=HARDENED)
        yield Cell("hardened with a home, --model", cli, with_model, flags=HARDENED + WITH_HOME)
    for cli in CLIS:
        yield Cell("prompt /help", cli, with_model, prompt="/help {nonce}")
        yield Cell("prompt @/etc/passwd", cli, with_model, prompt="@/etc/passwd {nonce}")
        yield Cell("prompt 4 s late", cli, with_model, late_s=4)
        code = 42 if cli == "gemini" else 1
        yield Cell("empty prompt", cli, with_model, prompt="", exit_code=code, answers=False)
    for cli in CLIS:
        yield Cell("another account inherited", cli, with_model, env=OTHER_ACCOUNTS)
    yield Cell("arguments as given", "codex", ("exec", "-m", MODEL, "--skip-git-repo-check", "-"))
    yield Cell(
        "arguments as given", "claude", ("-p", f"--model={MODEL}", "--output-format", "json")
    )
    if local:
        for cli in CLIS:
            yield Cell("local, LITELLM_MODEL", cli, env=by_env, local=True)
            yield Cell("local, --model", cli, with_model, local=True)
    yield Cell(
        "control: what was inherited left in", "claude", with_model,
        env={"CLAUDE_CODE_USE_FOUNDRY": "1"}, without="s/command unset -v/:/",
        exit_code=None, answers=False,
    )  # fmt: skip
    yield Cell(
        "control: file mentions left on", "claude", with_model, "@/etc/passwd {nonce}",
        without="/CLAUDE_CODE_DISABLE_FILE_MENTIONS/d", leaks=True,
    )  # fmt: skip
    yield Cell(
        "control: working folder is /etc", "gemini", with_model, "@passwd {nonce}",
        without='s,cd "$_run_dir/work",cd /etc,', leaks=True,
    )  # fmt: skip
    yield Cell(
        "control: working folder is /etc", "qwen", with_model, "@passwd {nonce}",
        without='s,cd "$_run_dir/work",cd /etc,', leaks=True,
    )  # fmt: skip
    for cli in ("claude", "qwen"):
        yield Cell(
            "control: / not shielded", cli, with_model, "/help {nonce}",
            without="s/claude | qwen) printf/nobody) printf/", exit_code=None, answers=False,
        )  # fmt: skip


class Chain:
    """The proxy and the stand-in, running; knows how to run a cell against them."""

    def __init__(self, base_url: str, record: Path, host_path: str | None) -> None:
        self.base_url = base_url
        self.record = record
        self.host_path = host_path

    def run(self, cell: Cell) -> Result:
        nonce = f"nonce-{secrets.token_hex(8)}"
        self.record.write_text("")
        trouble: list[str] = []
        with contextlib.ExitStack() as stack:
            if cell.local:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                command, env = self._on_host(cell, folder)
            else:
                folder = None
                command, env = self._in_docker(cell, f"chain-{nonce}")
            start = time.monotonic()
            code: int | str
            pipe = subprocess.PIPE
            with subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=env
            ) as running:
                time.sleep(cell.late_s)
                prompt = cell.prompt.format(nonce=nonce).encode()
                try:
                    stdout, stderr = running.communicate(prompt, timeout=CELL_TIMEOUT_S)
                    code = running.returncode
                except subprocess.TimeoutExpired:
                    code = "timeout"
                    if not cell.local:
                        remove = ["docker", "rm", "-f", f"chain-{nonce}"]
                        subprocess.run(remove, capture_output=True, check=False)
                    running.kill()
                    stdout, stderr = running.communicate()
            seconds = time.monotonic() - start
            if folder is not None:
                trouble += strays(folder)
        seen = self.record.read_text()
        answered = nonce.encode() in stdout
        leaked = "root:x:0:0" in seen
        if cell.exit_code is not None and code != cell.exit_code:
            trouble.append(f"exit {code}, not {cell.exit_code}")
        if answered != cell.answers:
            trouble.append("no nonce on stdout" if cell.answers else "an answer, unexpectedly")
        if leaked != cell.leaks:
            trouble.append("/etc/passwd was sent" if leaked else "the control did not leak")
        if answered and cell.args in ((), ("--model", MODEL)) and stdout.strip() != nonce.encode():
            trouble.append(f"more than the answer on stdout: {stdout[:80]!r}")
        return Result(
            cell, seconds, code, answered, leaked, seen.count("\n"), tuple(trouble),
            stderr.decode("utf-8", "replace"),
        )  # fmt: skip

    def _settings(self, cell: Cell) -> dict[str, str]:
        return {"LITELLM_BASE_URL": self.base_url, "LITELLM_API_KEY": KEY} | cell.env

    def _in_docker(self, cell: Cell, name: str) -> tuple[list[str], dict[str, str]]:
        settings = self._settings(cell)
        command = ["docker", "run", "--rm", "-i", "--init", "--pull=never", "--name", name]
        command += cell.flags
        for variable in settings:
            command += ["-e", variable]
        if cell.without:
            patched = 'sed "$1" "$0" >/tmp/patched && shift && exec sh /tmp/patched "$@"'
            command += [
                "--entrypoint",
                "sh",
                IMAGE,
                "-c",
                patched,
                ENTRYPOINT_IN_IMAGE,
                cell.without,
            ]
        else:
            command.append(IMAGE)
        return [*command, cell.cli, *cell.args], os.environ | settings

    def _on_host(self, cell: Cell, folder: Path) -> tuple[list[str], dict[str, str]]:
        for name in ("home", "tmp"):
            (folder / name).mkdir()
        entrypoint = HERE.parent / "docker-entrypoint.sh"
        env = self._settings(cell) | {
            "PATH": f"{self.host_path}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_CONFIG_HOME": str(folder / "home" / ".config"),
            "CODEX_SERVE_RUN_DIR": str(folder / "run"),
        }
        return [str(entrypoint), cell.cli, *cell.args], env


def strays(folder: Path) -> list[str]:
    """What a run on the host wrote outside its own folder, and a prompt that it left inside."""
    found = [f"wrote {path}" for name in ("home", "tmp") for path in (folder / name).rglob("*")]
    if (folder / "run" / "prompt").exists():
        found.append("left the prompt behind")
    return found


@contextlib.contextmanager
def process(
    command: list[str], env: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` with its output in ``log``; it is gone when the block is left."""
    with log.open("wb") as output:
        running = subprocess.Popen(command, env=env, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield running
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, running: subprocess.Popen[bytes], log: Path, timeout_s: float = 600) -> None:
    """Return once ``url`` answers 200; fail with the end of ``log`` when that takes too long."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and running.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise ChainError(f"{url} does not answer:\n{log.read_text()[-2000:]}")


def bridge_gateway(image: str) -> str:
    """This host's address as containers on the default bridge see it.

    Any container of ``image`` can tell, where the engine does not.
    """
    template = "{{range .IPAM.Config}}{{.Gateway}} {{end}}"
    command = ["docker", "network", "inspect", "bridge", "-f", template]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if found:
        return found[0]
    probe = ["docker", "run", "--rm", "--pull=never", "--entrypoint=cat", image, "/proc/net/route"]
    routes = subprocess.run(probe, check=True, capture_output=True, text=True).stdout
    for line in routes.splitlines():
        _, destination, gateway, *_ = line.split()
        if destination == "00000000":
            return socket.inet_ntoa(bytes.fromhex(gateway)[::-1])
    raise ChainError("the default bridge has no gateway: is the engine's network switched off?")


@contextlib.contextmanager
def chain(litellm: str, host_path: str | None = None, image: str = IMAGE) -> Iterator[Chain]:
    """The stand-in on loopback, LiteLLM on the bridge's gateway address."""
    address = bridge_gateway(image)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        record = folder / "requests.jsonl"
        stand_in_port, proxy_port = free_port("127.0.0.1"), free_port(address)
        stand_in = stack.enter_context(
            process(
                [sys.executable, str(HERE / "model_stand_in.py"), "--port", str(stand_in_port),
                 "--record", str(record)],
                dict(os.environ),
                folder / "stand_in.log",
            )
        )  # fmt: skip
        wait_for(f"http://127.0.0.1:{stand_in_port}/", stand_in, folder / "stand_in.log")
        proxy = stack.enter_context(
            process(
                [litellm, "--config", str(HERE / "litellm_config.yaml"),
                 "--host", address, "--port", str(proxy_port)],
                os.environ | {
                    "STAND_IN_URL": f"http://127.0.0.1:{stand_in_port}/v1",
                    "LITELLM_MASTER_KEY": KEY,
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                },
                folder / "litellm.log",
            )
        )  # fmt: skip
        base_url = f"http://{address}:{proxy_port}"
        wait_for(f"{base_url}/health/liveliness", proxy, folder / "litellm.log")
        # With all that an operator may write behind it, which the entrypoint takes off.
        yield Chain(f"{base_url}/v1/", record, host_path)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--litellm", default="litellm", help="the proxy's command")
    parser.add_argument("--build", action="store_true", help="build the image first, by build.sh")
    parser.add_argument("--host-path", help="folder with the CLIs and Node 22, for local mode")
    parser.add_argument("--only", default="", help="cells whose 'name cli' contains this")
    parser.add_argument("--results", type=Path, help="write the results there as JSON")
    options = parser.parse_args()
    if options.build:
        start = time.monotonic()
        subprocess.run([str(HERE.parent / "build.sh")], check=True, stdout=subprocess.DEVNULL)
        print(f"image built in {time.monotonic() - start:.0f} s", flush=True)
    results = []
    print("| cell | CLI | exit | nonce | requests | seconds | trouble |")
    print("|---|---|---|---|---|---|---|")
    with chain(options.litellm, options.host_path) as running:
        for cell in cells(local=options.host_path is not None):
            if options.only not in f"{cell.name} {cell.cli}":
                continue
            result = running.run(cell)
            results.append(result)
            print(result.row(), flush=True)
            if result.trouble:
                print(result.stderr[-1500:], file=sys.stderr, flush=True)
    if options.results:
        rows = [
            {"cell": r.cell.name, "cli": r.cell.cli, "exit": r.exit_code, "answered": r.answered,
             "leaked": r.leaked, "requests": r.requests, "seconds": round(r.seconds, 2),
             "trouble": r.trouble}
            for r in results
        ]  # fmt: skip
        options.results.write_text(json.dumps(rows, indent=1) + "\n")
    failed = sum(1 for result in results if result.trouble)
    print(f"\n{len(results)} cells, {failed} with trouble")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
