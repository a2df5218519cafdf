"""Good, bad, slow and leaving clients, all at once, for a while.

    python benchmarks/soak.py [SECONDS]     (600 when not given)

Bounded in time and in clients (8), against a server of its own on loopback;
one of them at a time does what those of ``hostile.py`` do. Prints memory,
descriptors and processes of the server while it goes on, and when it has been
left alone again, and exits with 1 if an answer was wrong or something was left
over.
"""

import json
import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent / "tests"), str(Path(__file__).parent.parent)]

import hostile

from process_tree import descendants, memory_bytes, open_fds, state
from serving import Server, exit_code, text_of

SETTINGS = {
    "CLI_LIST": "sh,cat,true",
    "WRITE_TIMEOUT_SECONDS": "2",
    "HEADER_TIMEOUT_SECONDS": "2",
    "BODY_TIMEOUT_SECONDS": "2",
    "RUN_KILL_GRACE_SECONDS": "0.2",
    "RUN_RESPONSE_TIMEOUT_SECONDS": "3",
}
WARM_UP_S = 20
Client = Callable[[Server, random.Random], None]


def good(server: Server, chance: random.Random) -> None:
    prompt = chance.randbytes(chance.randrange(30_000)).hex()
    events = server.run("cat", stdin=prompt)
    assert text_of(events, "stdout") == prompt
    assert exit_code(events) == 0


def quick(server: Server, chance: random.Random) -> None:
    assert server.run("true") == [{"type": "exit", "code": 0}]
    assert server.request("GET", "/models").status == 200


def chatty(server: Server, chance: random.Random) -> None:
    size = chance.randrange(3_000_000)
    events = server.run("sh", "-c", f"head -c {size} /dev/zero | tr '\\0' x; exit 3")
    assert len(text_of(events, "stdout")) == size
    assert exit_code(events) == 3


def untidy(server: Server, chance: random.Random) -> None:
    assert exit_code(server.run("sh", "-c", "setsid sleep 60 & sleep 60 & exit 4")) == 4


def overdue(server: Server, chance: random.Random) -> None:
    assert exit_code(server.run("sh", "-c", "trap '' TERM; sleep 60")) == 124


def leaving(server: Server, chance: random.Random) -> None:
    with server.stream("sh", "-c", "setsid sleep 60 & echo go; exec cat /dev/zero") as stream:
        stream.next_event()


def deaf(server: Server, chance: random.Random) -> None:
    with server.stream("sh", "-c", "exec cat /dev/zero"):
        time.sleep(3)


def refused(server: Server, chance: random.Random) -> None:
    assert server.post(chance.randbytes(100)).status == 400
    assert server.post({"cli": "rm"}).status == 400
    assert server.post(b" " * 17_000_000).status == 413


def garbage(server: Server, chance: random.Random) -> None:
    starts = [b"", b"\x16\x03\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /run HTTP/1.1\r\n"]
    with server.connect() as connection, suppress(OSError):
        connection.sendall(chance.choice(starts) + chance.randbytes(chance.randrange(5000)))
        if chance.random() < 0.5:
            while connection.recv(65_536):
                pass


def slow(server: Server, chance: random.Random) -> None:
    """A head, or a body, that takes for ever."""
    head = (
        "POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n"
    )
    with server.connect() as connection, suppress(OSError):
        connection.sendall(head.encode() + (b"\r\n" if chance.random() < 0.5 else b""))
        connection.settimeout(10)
        while connection.recv(65_536):
            pass


def vanishing(server: Server, chance: random.Random) -> None:
    body = json.dumps({"cli": "sh", "args": ["-c", "exec sleep 60"]}).encode()
    head = b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)


worst_turn = threading.Lock()


def worst(server: Server, chance: random.Random) -> None:
    """16 MB and more at a time: one of eight clients is enough."""
    kind, _ = chance.choice(hostile.KINDS)
    with worst_turn:
        try:
            kind(server.port)
        except ConnectionError:
            # BODY_TIMEOUT_SECONDS is short here.
            assert kind in (hostile.tiny_chunks, hostile.body_without_end)


CLIENTS: tuple[Client, ...] = (
    *(good, good, quick, quick, chatty, untidy, overdue, leaving, deaf),
    *(refused, garbage, slow, vanishing, worst),
)


def main() -> int:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600
    counts: Counter[str] = Counter()
    failures: list[str] = []
    with Server(SETTINGS) as server:
        stop_at = time.monotonic() + WARM_UP_S + seconds

        def work(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < stop_at:
                client = chance.choice(CLIENTS)
                try:
                    client(server, chance)
                except Exception as error:
                    failures.append(f"{client.__name__}: {error!r}")
                counts[client.__name__] += 1

        def look(moment: str) -> tuple[int, int, int]:
            below = descendants(server.pid)
            zombies = sum(state(pid) == "Z" for pid in below)
            memory = memory_bytes(server.pid)
            print(
                f"{moment:<12} {memory / 1e6:6.1f} MB   {open_fds(server.pid):3} descriptors   "
                f"{len(below):3} processes, {zombies} zombies   {sum(counts.values()):6} clients",
                flush=True,
            )
            return memory, open_fds(server.pid), len(below)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        look("at start")
        for thread in threads:
            thread.start()
        time.sleep(WARM_UP_S)
        while time.monotonic() < stop_at:
            look(f"{stop_at - time.monotonic():.0f} s to go")
            time.sleep(min(60, max(0, stop_at - time.monotonic())))
        for thread in threads:
            thread.join()
        time.sleep(5)
        _, _, processes = look("left alone")
        print(dict(sorted(counts.items())))
        # Idle: the fork server and at most 16 supervisors, each with one descriptor here.
        names = {Path(f"/proc/{pid}/comm").read_text() for pid in descendants(server.pid)}
        print(
            f"load {os.getloadavg()[0]:.1f}; {len(failures)} wrong answers", *failures[:5], sep="\n"
        )
        tracebacks = [line for line in server.log if "Traceback" in line or "ERROR" in line]
        print(f"{len(tracebacks)} errors in the log", *tracebacks[:5], sep="\n")
        return int(bool(failures or tracebacks or processes > 17 or len(names) > 1))


if __name__ == "__main__":
    sys.exit(main())
