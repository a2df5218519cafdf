"""Clients that do as little as can be, so that the servers are what is measured.

They use bare sockets, and look for no more than the end of a response.
"""

import json
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any, Self

RECEIVE_BYTES = 1024 * 1024
LAST_CHUNK = b"\r\n0\r\n\r\n"
TIMEOUT_S = 120


def get(path: str) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    """The bytes of a POST request with JSON."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(cli: str, *args: str, **fields: Any) -> bytes:
    """The bytes of a ``POST /run``."""
    return post("/run", json.dumps({"cli": cli, "args": args, **fields}).encode())


def websocket() -> bytes:
    """The bytes of a websocket handshake."""
    return (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )


class Client:
    """A connection that is kept for one exchange after the other."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(RECEIVE_BYTES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.sock.close()

    def exchange(self, request: bytes) -> bytes:
        """Send ``request`` and return the whole response, which is small."""
        self.sock.sendall(request)
        response = b""
        while not is_whole(response):
            response += self._receive()
        return response

    def receive_until(self, part: bytes) -> bytes:
        """Return what has come once ``part`` is in it."""
        seen = b""
        while part not in seen:
            seen += self._receive()
        return seen

    def discard(self, request: bytes) -> int:
        """Send ``request``, throw the response away as it comes, return its size in bytes."""
        self.sock.sendall(request)
        head = self._receive()
        total, length = len(head), whole_length(head)
        tail = head[-len(LAST_CHUNK) :]
        while total < length if length is not None else tail != LAST_CHUNK:
            received = self.sock.recv_into(self._buffer)
            if received == 0:
                break  # a websocket ends like this
            total += received
            start = max(0, received - len(LAST_CHUNK))
            tail = (tail + self._buffer[start:received])[-len(LAST_CHUNK) :]
        return total

    def _receive(self) -> bytes:
        data = self.sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("the server closed the connection early")
        return data


def whole_length(response: bytes) -> int | None:
    """How long a response will be, by its head; ``None`` where its end is marked instead."""
    head, _, _ = response.partition(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return len(head) + 4 + int(rest.split(b"\r\n")[0]) if found else None


def is_whole(response: bytes) -> bool:
    """Whether all of ``response`` is there."""
    if b"\r\n\r\n" not in response:
        return False
    length = whole_length(response)
    return response.endswith(LAST_CHUNK) if length is None else len(response) >= length


def many(ports: Sequence[int], request: bytes, each: int) -> list[float]:
    """Let a client for each of ``ports`` make ``each`` exchanges, all at the same time.

    Returns:
      The seconds that each exchange took.
    """
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        clients = [Client(port) for port in ports]
        states = {}
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
            client.sock.sendall(request)
            states[client] = (b"", time.perf_counter(), each)
        while states:
            for key, _ in selector.select():
                client = key.data
                response, start, left = states[client]
                response += client.sock.recv(RECEIVE_BYTES)
                if not is_whole(response):
                    states[client] = (response, start, left)
                    continue
                now = time.perf_counter()
                times.append(now - start)
                if left > 1:
                    states[client] = (b"", now, left - 1)
                    client.sock.sendall(request)
                else:
                    del states[client]
                    selector.unregister(client.sock)
        for client in clients:
            client.sock.close()
    return times
