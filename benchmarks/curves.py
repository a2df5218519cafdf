"""What a byte and a run cost as output, runs and live runs grow tenfold and tenfold.

    python benchmarks/curves.py

They should be flat. Processor time is the server's own, and where runs are
counted that of its helpers too. Memory is that of the server and its helpers.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import clients
import servers
from clients import Client
from measuring import Curve, Results, cpu_s, main, memory_mb
from servers import Listening
from throughput import LINE, file_of

from processes import children

MEGABYTES = (1, 10, 100, 1000)
RUNS = (1, 10, 100, 1000)
WARM_UP = 20
STARTED_AT_ONCE = 50


def helpers(server: Listening) -> list[int]:
    """The fork server and its supervisors, while no command lives."""
    (fork_server,) = children(server.pid)
    return [fork_server, *children(fork_server)]


def output(server: Listening) -> Iterator[Curve]:
    """One run, and more and more output."""
    memory, cpu = [], []
    with ExitStack() as stack:
        name = stack.enter_context(file_of(LINE, 1_000_000))
        client = stack.enter_context(Client(server.port))
        for megabytes in MEGABYTES:
            before = cpu_s(server.pid)
            # The clock of processor time ticks a hundred times a second.
            repeats = max(1, 100 // megabytes)
            for _ in range(repeats):
                client.discard(clients.run("cat", *[name] * megabytes))
            used = cpu_s(server.pid) - before
            cpu.append((float(megabytes), used / repeats / megabytes * 1000))
            memory.append((float(megabytes), memory_mb(server.pid, without="cat")))
    yield Curve("memory after a run with so much output", "MB of output", "MB", memory)
    yield Curve("processor time of a megabyte", "MB of output", "ms", cpu)


def runs(server: Listening) -> Iterator[Curve]:
    """More and more runs, one after the other."""
    memory, cpu = [], []
    done = 0
    request = clients.run("true")
    with Client(server.port) as client:
        for count in RUNS:
            before = sum(map(cpu_s, (server.pid, *helpers(server))))
            repeats = max(1, 100 // count)
            for _ in range(repeats * count):
                client.exchange(request)
            used = sum(map(cpu_s, (server.pid, *helpers(server)))) - before
            done += repeats * count
            cpu.append((float(count), used / repeats / count * 1000))
            memory.append((float(done), memory_mb(server.pid, without="true")))
    yield Curve("memory after so many runs", "runs so far", "MB", memory)
    yield Curve("processor time of a run", "runs in a row", "ms", cpu)


def live(server: Listening) -> Iterator[Curve]:
    """More and more live runs."""
    before = memory_mb(server.pid)
    memory = []
    with ExitStack() as stack:
        request = clients.run("sh", "-c", "echo go; exec sleep 300")
        count = 0
        for wanted in RUNS:
            while count < wanted:
                group = [
                    stack.enter_context(Client(server.port))
                    for _ in range(min(STARTED_AT_ONCE, wanted - count))
                ]
                for client in group:
                    client.sock.sendall(request)
                for client in group:
                    client.receive_until(b"go")
                count += len(group)
            memory.append(
                (float(wanted), (memory_mb(server.pid, without="sleep") - before) / wanted)
            )
    yield Curve("memory of a live run", "live runs", "MB", memory)


def measure() -> Results:
    with servers.ours() as server, Client(server.port) as client:
        for _ in range(WARM_UP):
            client.exchange(clients.run("true"))
        curves = [*output(server), *runs(server)]
    with servers.ours() as server:
        return Results(curves=[*curves, *live(server)])


if __name__ == "__main__":
    main(measure)
