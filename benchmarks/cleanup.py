"""What guaranteed cleanup costs, and how fast it is.

    python benchmarks/cleanup.py

Prints medians and spread of: the time from a disconnect until nothing of a
tree that honours SIGTERM is left; ``/bin/true`` through ``/run`` beside the
same server with a plain ``trio.lowlevel.open_process``, in turn; the private
memory of a live run.
"""

import http.client
import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent)]

from process_tree import alive, children, descendants
from serving import Server

DISCONNECTS = 500
PAIRS = 1000
LIVE_RUNS = 100


def row(name: str, values: list[float], unit: str) -> None:
    values = sorted(values)
    p99 = values[int(len(values) * 0.99)]
    print(
        f"{name:<44} median {statistics.median(values):7.2f} {unit}   "
        f"p99 {p99:7.2f} {unit}   max {values[-1]:7.2f} {unit}"
    )


def disconnects(server: Server) -> list[float]:
    """Milliseconds from the client's close to the end of the last of three processes."""
    times = []
    for _ in range(DISCONNECTS):
        with server.stream("sh", "-c", "sleep 60 & sleep 60 & echo $$; wait") as stream:
            leader = int(stream.next_event()["data"])
            tree = [leader, *children(leader)]
            assert len(tree) == 3
            start = time.perf_counter()
            stream.disconnect()
            while any(alive(pid) for pid in tree):
                pass
            times.append((time.perf_counter() - start) * 1000)
    return times


def pairs(servers: list[Server]) -> list[list[float]]:
    """Milliseconds of ``true``, the servers in turn."""
    connections = [http.client.HTTPConnection("127.0.0.1", server.port) for server in servers]
    times: list[list[float]] = [[] for _ in servers]
    for turn in range(PAIRS + 50):
        for which, connection in enumerate(connections):
            start = time.perf_counter()
            connection.request(
                "POST", "/run", '{"cli": "true"}', {"Content-Type": "application/json"}
            )
            answer = connection.getresponse().read()
            elapsed = time.perf_counter() - start
            assert answer == b'{"type":"exit","code":0}\n'
            if turn >= 50:
                times[which].append(elapsed * 1000)
    return times


def private_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    lines = [line.split() for line in rollup.splitlines() if line.startswith("Private_")]
    return sum(int(line[1]) for line in lines) * 1024


def memory(server: Server) -> float:
    """Private megabytes of the server and its helpers that each live run adds."""

    def total() -> int:
        (helper,) = children(server.pid)
        return sum(private_bytes(pid) for pid in [server.pid, helper, *children(helper)])

    with ExitStack() as stack:
        stack.enter_context(server.stream("sh", "-c", "echo go; exec sleep 60")).next_event()
        before = total()
        for _ in range(LIVE_RUNS):
            stream = stack.enter_context(server.stream("sh", "-c", "echo go; exec sleep 60"))
            stream.next_event()
        assert len(descendants(server.pid)) > 2 * LIVE_RUNS
        return (total() - before) / LIVE_RUNS / 1e6


def main() -> None:
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} processors, Python {sys.version[:6]}")
    tools = {"CLI_LIST": "sh,true"}
    with Server(tools) as server:
        row("disconnect until nothing is left", disconnects(server), "ms")
    with (
        Server(tools) as server,
        Server(tools, command=[sys.executable, "-m", "plain_server"]) as plain,
    ):
        ours, theirs = pairs([server, plain])
        row("true, supervised", ours, "ms")
        row("true, plain open_process", theirs, "ms")
        ratio = statistics.median(ours) / statistics.median(theirs)
        each = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(f"supervised / plain: {ratio:.3f} of the medians, {each:.3f} median of the pairs")
    with Server(tools) as server:
        print(f"private memory of a live run: {memory(server):.2f} MB")


if __name__ == "__main__":
    main()
