"""From the start of a server to its first answer, and its memory when it idles.

python benchmarks/start.py
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence

import clients
import servers
from clients import Client
from measuring import Figures, Results, Row, main, memory_mb

ROUNDS = 7
IDLES_S = 0.5


def start(command: Sequence[str], port: int) -> tuple[float, float]:
    """Seconds and megabytes."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**os.environ, "PORT": str(port), "HOST": "127.0.0.1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        servers.wait_until_listening(port)
        with Client(port) as client:
            client.exchange(clients.get("/models"))
        elapsed = time.perf_counter() - began
        time.sleep(IDLES_S)
        return elapsed, memory_mb(process.pid)
    finally:
        process.terminate()
        process.wait()


def measure() -> Results:
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "FastAPI": []}
    for _ in range(ROUNDS):
        port = servers.free_port()
        found["ours"].append(start((sys.executable, "-m", "codex_serve"), port))
        port = servers.free_port()
        found["FastAPI"].append(start(servers.fastapi_command(port), port))
    times = {name: Figures.of([s for s, _ in pairs]) for name, pairs in found.items()}
    memory = {name: Figures.of([mb for _, mb in pairs]) for name, pairs in found.items()}
    seconds, megabytes = times.pop("ours"), memory.pop("ours")
    return Results(
        [
            Row("start to first answer", "s", "< 0.5", seconds.median < 0.5, seconds, times),
            Row("idle memory", "MB", "< 60", megabytes.median < 60, megabytes, memory),
        ]
    )


if __name__ == "__main__":
    main(measure)
