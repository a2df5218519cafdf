"""1,000 live runs: whether all stream, and how long one more request takes.

    python benchmarks/thousand.py

Each run is a ``tail -f`` of one file; a line is added to it and must come to
every client, while another client asks for ``GET /models``. The commands look
at the file four times a second.
"""

import selectors
import tempfile
import time
from contextlib import ExitStack

import clients
import servers
from clients import Client
from latency import one
from measuring import Figures, Results, Row, main
from servers import Listening

RUNS = 1000
STARTED_AT_ONCE = 50
TICKS = 5
TICK_S = 1.0
STREAM_S = 10.0


def ask_while_streaming(server: Listening) -> list[float]:
    """Milliseconds of ``GET /models``, each while ``RUNS`` runs stream."""
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.NamedTemporaryFile())
        file.write(b"begin\n")
        file.flush()
        request = clients.run("tail", "-s", "0.25", "---disable-inotify", "-f", file.name)
        runs = [stack.enter_context(Client(server.port)) for _ in range(RUNS)]
        selector = stack.enter_context(selectors.DefaultSelector())
        for first in range(0, RUNS, STARTED_AT_ONCE):
            group = runs[first : first + STARTED_AT_ONCE]
            for run in group:
                run.sock.sendall(request)
            for run in group:
                run.receive_until(b"begin")
                selector.register(run.sock, selectors.EVENT_READ)
        ask = one(stack.enter_context(Client(server.port)), clients.get("/models"), b"auto")
        times: list[float] = []
        for tick in range(TICKS):
            line = b"tick %d\n" % tick
            file.write(line)
            file.flush()
            counts = dict.fromkeys((run.sock for run in runs), 0)
            ends = time.monotonic() + TICK_S
            gives_up = ends + STREAM_S
            # Asking goes on when all have got theirs, so that each tick counts alike.
            while (now := time.monotonic()) < ends or not all(counts.values()):
                assert now < gives_up, f"{list(counts.values()).count(0)} runs do not stream"
                times.append(ask())
                for key, _ in selector.select(0.005):
                    sock = key.fileobj
                    counts[sock] += sock.recv(65_536).count(b"tick")  # type: ignore[index, union-attr]
        return times


def measure() -> Results:
    figures = {}
    for name, start in (("ours", servers.ours), ("FastAPI", servers.fastapi)):
        with start() as server:
            times = ask_while_streaming(server)
            figures[name] = Figures.of(times)
    ours = figures["ours"]
    return Results(
        [
            Row(
                what=f"`GET /models` while {RUNS:,} runs stream",
                unit="ms",
                goal="< 50",
                holds=ours.high < 50,
                figures=figures,
            )
        ]
    )


if __name__ == "__main__":
    main(measure)
