"""What one client can take from the others: their time, and the server's memory.

    python benchmarks/hostile.py [KIND …]

One kind of hostile client at a time does its worst, in processes of its own,
while another client asks for ``GET /models`` every few milliseconds. Prints for
each kind how long that took (median, 99 of 100, the longest), and by how much
the server's memory grew at most, for each body that was in flight. Goals: 50 ms
for 99 of 100, on a machine with nothing else to do, and 1.2 times the largest
body.
"""

import functools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import clients
import servers
from clients import Client

BODY_BYTES = 16 * 1024 * 1024
SECONDS = 5.0
PAUSE_S = 0.003
GOAL_MS = 50
GOAL_BYTES = 1.2 * BODY_BYTES
CHUNKS_S = 3.0
CHUNK_BYTES_PER_S = 1_000_000

HEAD = b"POST /run HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@functools.cache
def filled(start: bytes, part: bytes, end: bytes) -> bytes:
    """A request of the full size, whose body is ``part`` again and again in between."""
    times = (BODY_BYTES - len(start) - len(end)) // len(part)
    return clients.post("/run", start + part * times + end)


@functools.cache
def variables(count: int) -> bytes:
    env = {f"{number:x}": "" for number in range(count)}
    body = json.dumps({"cli": "true", "env": env}, separators=(",", ":"))
    return clients.post("/run", body.encode())


def refused(port: int, request: bytes) -> None:
    with Client(port) as client:
        assert b"HTTP/1.1 4" in client.exchange(request)


def empty_arguments(port: int) -> None:
    refused(port, filled(b'{"cli":"true","args":[', b'"",', b'""]}'))


def long_argument(port: int) -> None:
    refused(port, filled('{"cli":"true","args":["😀'.encode(), b"x", b'"]}'))


def long_path(port: int) -> None:
    refused(port, filled(b'{"cli":"true","env":{"PATH":"', b":", b'"}}'))


def many_variables(port: int) -> None:
    refused(port, variables(1_200_000))


def fields_again_and_again(port: int) -> None:
    refused(port, filled(b"{", b'"cli":"",', b'"x":1}'))


def brackets(port: int) -> None:
    refused(port, filled(b'{"x":[', b"[],", b"1]}"))


def random_bytes(port: int) -> None:
    refused(port, clients.post("/run", random.Random(0).randbytes(BODY_BYTES)))


def most_arguments(port: int) -> None:
    """As many as are taken, for a command that does not look at them."""
    with Client(port) as client:
        assert b'"code":0' in client.exchange(clients.run("true", *[""] * 230_000))


def unread_prompt(port: int) -> None:
    """And the client leaves while its command runs."""
    request = filled(
        '{"cli":"sh","args":["-c","echo go; exec sleep 60"],"stdin":"😀'.encode(),
        b"\\n" + b"x" * 60,
        b'"}',
    )
    with Client(port) as client:
        client.sock.sendall(request)
        client.receive_until(b"go")
        time.sleep(0.2)


def read_prompt(port: int) -> None:
    """All of it escapes, the dearest to decode."""
    request = filled(
        b'{"cli":"sh","args":["-c","exec cat > /dev/null"],"stdin":"', b"\\ud83d\\ude00", b'"}'
    )
    with Client(port) as client:
        assert b'"code":0' in client.exchange(request)


def body_without_end(port: int) -> None:
    with Client(port) as client:
        client.sock.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % BODY_BYTES)
        client.sock.sendall(b" " * (BODY_BYTES - 1))
        time.sleep(0.2)


def tiny_chunks(port: int) -> None:
    """Chunks of a byte, as fast as many a connection is: too much framing is refused."""
    send_chunks(port, b"1\r\nx\r\n")


def small_chunks(port: int) -> None:
    """The smallest of which there may be as many as one likes."""
    send_chunks(port, b"5\r\nxxxxx\r\n")


def send_chunks(port: int, chunk: bytes) -> None:
    chunks = chunk * (6000 // len(chunk))
    with Client(port) as client, suppress(OSError):  # it may be hung up on
        client.sock.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        start, sent = time.monotonic(), 0
        while time.monotonic() < start + CHUNKS_S:
            client.sock.sendall(chunks)
            sent += len(chunks)
            time.sleep(max(0.0, start + sent / CHUNK_BYTES_PER_S - time.monotonic()))


def blanks_in_a_header(port: int) -> None:
    refused(port, b"GET /models HTTP/1.1\r\nHost: x\r\nX:" + b" " * 16_000 + b"\0\r\n\r\n")


def blanks_in_a_chunk_size(port: int) -> None:
    chunk = b"2;" + b" " * 200_000 + b"\n\r\n"
    refused(port, HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)


def most_headers(port: int) -> None:
    """As many as are taken, as fast as they are answered."""
    headers = b"".join(b"X-%d: y\r\n" % number for number in range(99))
    with Client(port) as client:
        for _ in range(1000):
            client.exchange(b"GET /models HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")


def pipelined(port: int) -> None:
    """As many requests at once as may wait, and then more."""
    requests = clients.get("/models")
    requests *= 60_000 // len(requests)
    with Client(port) as client, suppress(OSError):  # it is reset
        while True:
            client.sock.sendall(requests)


Hostile = Callable[[int], None]
KINDS: tuple[tuple[Hostile, int], ...] = (
    *((empty_arguments, 1), (long_argument, 1), (long_path, 1), (many_variables, 1)),
    *((fields_again_and_again, 1), (brackets, 1), (random_bytes, 1), (most_arguments, 1)),
    *((unread_prompt, 1), (unread_prompt, 4), (read_prompt, 1), (body_without_end, 1)),
    *((tiny_chunks, 1), (tiny_chunks, 8), (small_chunks, 1), (small_chunks, 8)),
    *((blanks_in_a_header, 1), (blanks_in_a_header, 8), (blanks_in_a_chunk_size, 1)),
    *((most_headers, 1), (pipelined, 1)),
)
"""What a hostile client does, over and over, and how many of them do it at a time."""


def be_hostile(name: str, port: int) -> None:
    """Go on until this process is ended."""
    (kind, *_) = [kind for kind, _ in KINDS if kind.__name__ == name]
    while True:
        try:
            kind(port)
        except (OSError, AssertionError) as error:
            print(f"  {name}: {error!r}", file=sys.stderr, flush=True)
            time.sleep(0.1)


def resident_peak(pid: int, forget: bool = False) -> int:
    """The most memory that ``pid`` has had, in bytes, since it was last forgotten."""
    if forget:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    (line,) = [
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM:")
    ]
    return int(line.split()[1]) * 1024


def ask(port: int, seconds: float) -> list[float]:
    """Milliseconds of each ``GET /models``, sorted."""
    times = []
    request = clients.get("/models")
    with Client(port) as client:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.perf_counter()
            assert b'["auto"]' in client.exchange(request)
            times.append((time.perf_counter() - start) * 1000)
            time.sleep(PAUSE_S)
    return sorted(times)


def measure(kind: Hostile, count: int) -> bool:
    """Print a line; return whether the goals hold."""
    with servers.ours() as server:
        ask(server.port, 0.5)
        before = resident_peak(server.pid, forget=True)
        command = [sys.executable, __file__, "--hostile", kind.__name__, str(server.port)]
        hostile = [subprocess.Popen(command) for _ in range(count)]
        try:
            time.sleep(1.5)  # until they have made their requests
            times = ask(server.port, SECONDS)
        finally:
            for process in hostile:
                process.kill()
                process.wait()
        grown = (resident_peak(server.pid) - before) / count
    p99 = times[len(times) * 99 // 100]
    holds = p99 < GOAL_MS and grown < GOAL_BYTES
    print(
        f"{count} × {kind.__name__:<24} median {times[len(times) // 2]:7.2f} ms   "
        f"p99 {p99:7.2f} ms   max {times[-1]:8.2f} ms   {len(times):5} times   "
        f"memory {grown / BODY_BYTES:5.2f} bodies each   {'' if holds else 'DOES NOT HOLD'}",
        flush=True,
    )
    return holds


def main() -> int:
    if sys.argv[1:2] == ["--hostile"]:
        be_hostile(sys.argv[2], int(sys.argv[3]))
    wanted = [(kind, n) for kind, n in KINDS if kind.__name__ in sys.argv[1:]] or KINDS
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} processors, Python {sys.version[:6]}")
    held = [measure(kind, count) for kind, count in wanted]
    return int(not all(held))


if __name__ == "__main__":
    sys.exit(main())
