"""The first byte of a line that is not finished: from the child's write to the client's read.

    python benchmarks/partial_line.py

The child writes what the clock says, and the line feed ``STAYS_S`` later, as a
tool that shows its progress. Both sides read the same clock.
"""

import re
import time
from collections.abc import Callable
from contextlib import ExitStack

import clients
import servers
from clients import Client
from measuring import Results, Row, in_turn, main

STAYS_S = 0.2
ROUNDS = 15
CHILD = f"""
import os, time
time.sleep(0.05)
os.write(1, b"<%d>" % time.monotonic_ns())
time.sleep({STAYS_S})
os.write(1, b"\\n")
"""
COMMAND = ("python3", "-I", "-S", "-c", CHILD)


def first_byte(port: int, request: bytes) -> Callable[[], float]:
    """Return what measures milliseconds."""

    def measure() -> float:
        with Client(port) as client:
            client.sock.sendall(request)
            seen = client.receive_until(b">")
            now = time.monotonic_ns()
            found = re.search(rb"<(\d+)>", seen)
        assert found is not None
        return (now - int(found[1])) / 1e6

    return measure


def measure() -> Results:
    with ExitStack() as stack:
        run = clients.run(*COMMAND)
        subjects = {
            "ours": first_byte(stack.enter_context(servers.ours()).port, run),
            "FastAPI": first_byte(stack.enter_context(servers.fastapi()).port, run),
        }
        if webhook := stack.enter_context(servers.webhook(*COMMAND)):
            subjects["webhook"] = first_byte(webhook.port, clients.get("/hooks/run"))
        if websocketd := stack.enter_context(servers.websocketd(*COMMAND)):
            subjects["websocketd"] = first_byte(websocketd.port, clients.websocket())
        figures = in_turn(subjects, ROUNDS)
    ours = figures["ours"]
    row = Row(
        what=f"first byte of a partial line, which ends {STAYS_S * 1000:.0f} ms later",
        unit="ms",
        goal="< 5",
        holds=ours.median < 5,
        figures=figures,
    )
    return Results([row])


if __name__ == "__main__":
    main(measure)
