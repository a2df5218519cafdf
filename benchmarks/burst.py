"""300 runs started at once: the time and the memory of each.

    python benchmarks/burst.py

The time is from the first request until each run has sent its first output,
divided by their number. The memory is that of the server and its helpers; the
commands' own is not counted. The server is a fresh one each time.
"""

import time
from contextlib import ExitStack

import clients
import servers
from clients import Client
from measuring import Figures, Results, Row, main, memory_mb
from servers import Listening

RUNS = 300
ROUNDS = 3
REQUEST = clients.run("sh", "-c", "echo go; exec sleep 60")


def burst(server: Listening) -> tuple[float, float]:
    """Milliseconds and megabytes of a run."""
    with ExitStack() as stack:
        before = memory_mb(server.pid)
        started = [stack.enter_context(Client(server.port)) for _ in range(RUNS)]
        start = time.perf_counter()
        for client in started:
            client.sock.sendall(REQUEST)
        for client in started:
            client.receive_until(b"go")
        elapsed = time.perf_counter() - start
        grown = memory_mb(server.pid, without="sleep") - before
    return elapsed / RUNS * 1000, grown / RUNS


def measure() -> Results:
    found: dict[str, list[tuple[float, float]]] = {"ours": [], "FastAPI": []}
    for _ in range(ROUNDS):
        for name, start in (("ours", servers.ours), ("FastAPI", servers.fastapi)):
            with start() as server:
                found[name].append(burst(server))
    times = {name: Figures.of([ms for ms, _ in pairs]) for name, pairs in found.items()}
    memory = {name: Figures.of([mb for _, mb in pairs]) for name, pairs in found.items()}
    rows = []
    for what, unit, limit, figures in (
        (f"{RUNS} runs at once, each", "ms", 5, times),
        (f"{RUNS} runs at once, each", "MB", 1, memory),
    ):
        holds = figures["ours"].median <= limit
        rows.append(Row(what, unit, f"≤ {limit}", holds, figures))
    return Results(rows)


if __name__ == "__main__":
    main(measure)
