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
from measuring import Curve, Results, cpu_ms, main, memory_mb
from servers import Listening
from throughput import LINE, file_of

from process_tree import children

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
            before = cpu_ms(server.pid)
            client.discard(clients.run("cat", *[name] * megabytes))
            cpu.append((float(megabytes), (cpu_ms(server.pid) - before) / megabytes))
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
            before = sum(map(cpu_ms, (server.pid, *helpers(server))))
            for _ in range(count - done):
                client.exchange(request)
            used = sum(map(cpu_ms, (server.pid, *helpers(server)))) - before
            cpu.append((float(count), used / (count - done)))
            memory.append((float(count), memory_mb(server.pid, without="true")))
            done = count
    yield Curve("memory after so many runs", "runs", "MB", memory)
    yield Curve("processor time of a run", "runs", "ms", cpu)


def live(server: Listening) -> Iterator[Curve]:
    """More and more live runs, with what each adds."""
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
    curves: list[Curve] = []
    for draw in (output, runs, live):
        with servers.ours() as server, Client(server.port) as client:
            for _ in range(WARM_UP):
                client.exchange(clients.run("cat", stdin=LINE.decode()))
            curves += draw(server)
    return Results(curves=curves)


if __name__ == "__main__":
    main(measure)
