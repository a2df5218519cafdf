"""``GET /models``, at one client.

python benchmarks/models.py
"""

from contextlib import ExitStack

import clients
import servers
from clients import Client
from latency import one
from measuring import Results, Row, in_turn, main

ROUNDS = 2000
WARM_UP = 200


def measure() -> Results:
    with ExitStack() as stack:
        subjects = {
            name: one(stack.enter_context(Client(port)), clients.get("/models"), b'["auto"]')
            for name, port in {
                "ours": stack.enter_context(servers.ours()).port,
                "FastAPI": stack.enter_context(servers.fastapi()).port,
            }.items()
        }
        in_turn(subjects, WARM_UP)
        figures = in_turn(subjects, ROUNDS)
    ours = figures["ours"]
    row = Row(
        what="`GET /models`, 1 client",
        unit="ms",
        goal="≤ 1.5 × FastAPI",
        holds=ours.median <= 1.5 * figures["FastAPI"].median,
        figures=figures,
    )
    return Results([row])


if __name__ == "__main__":
    main(measure)
