"""``POST /run`` of ``true``, at one client and at 16.

    python benchmarks/latency.py

The limit is ``true`` by ``posix_spawn``, waited for, with its output read.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack

import clients
import servers
from clients import Client, many
from measuring import Figures, Results, Row, in_turn, main

ROUNDS = 400
WARM_UP = 30
CLIENTS = 16
EACH = 10
ROUNDS_OF_MANY = 12


def one(client: Client, request: bytes, expected: bytes) -> Callable[[], float]:
    """Return what measures the milliseconds of one exchange."""

    def measure() -> float:
        start = time.perf_counter()
        response = client.exchange(request)
        elapsed = time.perf_counter() - start
        assert expected in response, response
        return elapsed * 1000

    return measure


def bare() -> float:
    """Milliseconds."""
    start = time.perf_counter()
    assert servers.discard_from_pipe(("true",)) == 0
    return (time.perf_counter() - start) * 1000


def of_many(ports: dict[str, tuple[int, bytes]]) -> dict[str, Figures]:
    """Milliseconds of an exchange with ``CLIENTS`` of them at a time, the servers in turn."""
    times: dict[str, list[float]] = {name: [] for name in ports}
    for _ in range(ROUNDS_OF_MANY):
        for name, (port, request) in ports.items():
            times[name] += many([port] * CLIENTS, request, EACH)
    return {name: Figures.of([1000 * each for each in values]) for name, values in times.items()}


def row(what: str, figures: dict[str, Figures]) -> Row:
    return Row(
        what=what,
        unit="ms",
        goal="≤ 1.0 × FastAPI",
        holds=figures["ours"].median <= figures["FastAPI"].median,
        figures=figures,
    )


def measure() -> Results:
    with ExitStack() as stack:
        run, hook = clients.run("true"), clients.get("/hooks/run")
        ports = {
            "ours": (stack.enter_context(servers.ours()).port, run),
            "FastAPI": (stack.enter_context(servers.fastapi()).port, run),
        }
        if webhook := stack.enter_context(servers.webhook("true")):
            ports["webhook"] = (webhook.port, hook)
        subjects = {
            name: one(
                stack.enter_context(Client(port)), request, b'"code"' if request is run else b"200"
            )
            for name, (port, request) in ports.items()
        } | {"limit: posix_spawn": bare}
        in_turn(subjects, WARM_UP)
        single = in_turn(subjects, ROUNDS)
        of_many(ports)
        return Results(
            [
                row("`POST /run` of `true`, 1 client", single),
                row(f"`POST /run` of `true`, {CLIENTS} clients", of_many(ports)),
            ]
        )


if __name__ == "__main__":
    main(measure)
