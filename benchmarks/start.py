"""From the start of a server to its first answer, and its memory when it idles.

python benchmarks/start.py
"""

import time
from collections.abc import Callable

import clients
import servers
from clients import Client
from measuring import Figures, Results, Row, main, memory_mb
from servers import Listening

ROUNDS = 7
IDLES_S = 0.5


def start(listening: Callable[[], Listening]) -> tuple[float, float]:
    """Seconds and megabytes."""
    began = time.perf_counter()
    with listening() as server:
        with Client(server.port) as client:
            client.exchange(clients.get("/models"))
        elapsed = time.perf_counter() - began
        time.sleep(IDLES_S)
        return elapsed, memory_mb(server.pid)


def measure() -> Results:
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "FastAPI": []}
    for _ in range(ROUNDS):
        found["ours"].append(start(servers.ours))
        found["FastAPI"].append(start(servers.fastapi))
    times = {name: Figures.of([s for s, _ in pairs]) for name, pairs in found.items()}
    memory = {name: Figures.of([mb for _, mb in pairs]) for name, pairs in found.items()}
    return Results(
        [
            Row("start to first answer", "s", "< 0.5", times["ours"].median < 0.5, times),
            Row("idle memory", "MB", "< 60", memory["ours"].median < 60, memory),
        ]
    )


if __name__ == "__main__":
    main(measure)
