"""How much a server grows while its reader stalls and 300 MB wait.

python benchmarks/stalled_reader.py
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

import clients
import servers
from clients import Client
from measuring import Results, Row, in_turn, main, memory_mb
from throughput import LINE, file_of

FILE_BYTES = 10_000_000
TIMES = 30
STALLS_S = 3.0
ROUNDS = 3


def growth(pid: int, port: int, request: bytes) -> Callable[[], float]:
    """Return what measures megabytes."""

    def measure() -> float:
        before = memory_mb(pid, without="cat")
        with Client(port) as client:
            client.sock.sendall(request)
            client.sock.recv(1)
            time.sleep(STALLS_S)
            return memory_mb(pid, without="cat") - before

    return measure


def measure() -> Results:
    with ExitStack() as stack:
        name = stack.enter_context(file_of(LINE, FILE_BYTES))
        command = ("cat", *[name] * TIMES)
        run = clients.run(*command)
        server = stack.enter_context(servers.ours())
        fastapi = stack.enter_context(servers.fastapi())
        subjects = {
            "ours": growth(server.pid, server.port, run),
            "FastAPI": growth(fastapi.pid, fastapi.port, run),
        }
        if websocketd := stack.enter_context(servers.websocketd(*command)):
            subjects["websocketd"] = growth(websocketd.pid, websocketd.port, clients.websocket())
        figures = in_turn(subjects, ROUNDS)
    ours = figures["ours"]
    row = Row(
        what="growth under a stalled reader, 300 MB waiting",
        unit="MB",
        goal="< 4",
        holds=ours.high < 4,
        figures=figures,
    )
    return Results([row])


if __name__ == "__main__":
    main(measure)
