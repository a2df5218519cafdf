"""200 MB of 80-byte lines, to a reader that throws them away.

    python benchmarks/throughput.py

FastAPI and websocketd get 10 MB, because they would take most of a minute for
all of it. The limit is the bare pipe, read in this process.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import clients
import servers
from clients import Client
from measuring import Results, Row, in_turn, main

LINE = b"0123456789" * 7 + b"012345678\n"
FILE_BYTES = 10_000_000
TIMES = 20
"""How often the file is written out where 200 MB are."""

ROUNDS = 7


@contextmanager
def file_of(line: bytes, size: int) -> Iterator[str]:
    """A file of about ``size`` bytes, in memory where the system has a place for that."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(line * (size // len(line)))
        file.flush()
        yield file.name


def discarding(port: int, request: bytes, size: int) -> Callable[[], float]:
    """Return what measures MB of output per second, ``size`` being the output's bytes."""

    def measure() -> float:
        with Client(port) as client:
            start = time.perf_counter()
            received = client.discard(request)
            elapsed = time.perf_counter() - start
        assert received >= size, f"{received} bytes came, not {size}"
        return size / elapsed / 1e6

    return measure


def from_pipe(command: Sequence[str], size: int) -> Callable[[], float]:
    """The same for the bare pipe."""

    def measure() -> float:
        start = time.perf_counter()
        assert servers.discard_from_pipe(command) == size
        return size / (time.perf_counter() - start) / 1e6

    return measure


def compare(
    stack: ExitStack, command: Sequence[str], size: int, brief: Sequence[str], brief_size: int
) -> dict[str, Callable[[], float]]:
    """Return what measures each server and the bare pipe, by name.

    Args:
      stack: takes the servers.
      command: what is run; it writes ``size`` bytes.
      size: see there.
      brief: what is run on the slow servers; it writes ``brief_size`` bytes.
      brief_size: see there.
    """
    server = stack.enter_context(servers.ours())
    fastapi = stack.enter_context(servers.fastapi())
    subjects = {
        "ours": discarding(server.port, clients.run(*command), size),
        "FastAPI": discarding(fastapi.port, clients.run(*brief), brief_size),
    }
    if webhook := stack.enter_context(servers.webhook(*command)):
        subjects["webhook"] = discarding(webhook.port, clients.get("/hooks/run"), size)
    if websocketd := stack.enter_context(servers.websocketd(*brief)):
        subjects["websocketd"] = discarding(websocketd.port, clients.websocket(), brief_size)
    return subjects | {"limit: pipe": from_pipe(command, size)}


def measure() -> Results:
    with ExitStack() as stack:
        name = stack.enter_context(file_of(LINE, FILE_BYTES))
        command = ("cat", *[name] * TIMES)
        subjects = compare(stack, command, TIMES * FILE_BYTES, ("cat", name), FILE_BYTES)
        figures = in_turn(subjects, ROUNDS)
    ours, pipe = figures["ours"], figures["limit: pipe"]
    row = Row(
        what="200 MB of 80-byte lines",
        unit="MB/s",
        goal="≥ 250, or half the pipe",
        holds=ours.median >= min(250, pipe.median / 2),
        figures=figures,
        more_is_better=True,
    )
    return Results([row])


if __name__ == "__main__":
    main(measure)
