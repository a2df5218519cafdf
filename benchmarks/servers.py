"""This server and its peers, each as a process that answers on a port of its own."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parent.parent
PEERS = Path(__file__).parent / "peers"
START_S = 20
TOOLS = {"CLI_LIST": "cat,dd,head,python3,sh,tail,true", "MAX_CONNECTIONS": "1100"}


class Listening:
    """A process that listens on ``port``. What it writes goes nowhere."""

    def __init__(
        self, command: Sequence[str], port: int, env: Mapping[str, str] | None = None
    ) -> None:
        self.port = port
        # An installed server has its bytecode, so the one of this folder may keep its own.
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._process = subprocess.Popen(
            command,
            env={**inherited, **(env or {})},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_until_listening(port)
        except TimeoutError:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def ours() -> Listening:
    """Start this server, with its guarantee and its log as they are by default."""
    port = free_port()
    command = (sys.executable, "-m", "codex_serve", "--host", "127.0.0.1", "--port", str(port))
    return Listening(command, port, {**TOOLS, "PYTHONPATH": str(ROOT)})


def fastapi() -> Listening:
    """Start FastAPI on uvicorn: see ``peers/fastapi_server.py``."""
    port = free_port()
    return Listening((sys.executable, str(PEERS / "fastapi_server.py"), str(port)), port)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens on port {port}") from None
            time.sleep(0.002)


@contextmanager
def webhook(*command: str) -> Iterator[Listening | None]:
    """webhook, which runs ``command`` for ``GET /hooks/run``; ``None`` where it is missing.

    It answers with the output once the command has ended.
    """
    program, executable = shutil.which("webhook"), shutil.which(command[0])
    if program is None or executable is None:
        yield None
        return
    hook = {
        "id": "run",
        "execute-command": executable,
        "include-command-output-in-response": True,
        "pass-arguments-to-command": [
            {"source": "string", "name": argument} for argument in command[1:]
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump([hook], file)
        file.flush()
        port = free_port()
        with Listening(
            (program, "-hooks", file.name, "-ip", "127.0.0.1", "-port", str(port)), port
        ) as peer:
            yield peer


@contextmanager
def websocketd(*command: str) -> Iterator[Listening | None]:
    """websocketd, which runs ``command`` for each websocket; ``None`` where it is missing.

    It sends each line as a message.
    """
    program = shutil.which("websocketd")
    if program is None:
        yield None
        return
    port = free_port()
    with Listening(
        (program, "--address=127.0.0.1", f"--port={port}", "--loglevel=error", *command), port
    ) as peer:
        yield peer


def spawn(command: Sequence[str], stdout: int) -> int:
    """The limit: start ``command`` by ``posix_spawn`` with no more than an output."""
    path = shutil.which(command[0])
    assert path is not None
    actions = ((os.POSIX_SPAWN_DUP2, stdout, 1),)
    return os.posix_spawn(path, list(command), os.environ, file_actions=actions)


def discard_from_pipe(command: Sequence[str]) -> int:
    """The limit: run ``command`` and throw away what its pipe brings; return the bytes."""
    reading, writing = os.pipe()
    pid = spawn(command, writing)
    os.close(writing)
    total = 0
    buffer = bytearray(65_536)
    while received := os.readv(reading, [buffer]):
        total += received
    os.close(reading)
    os.waitpid(pid, 0)
    return total
