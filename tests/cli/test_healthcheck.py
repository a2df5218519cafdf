"""The health check, asked of real servers: it fails those that do not serve, and only those."""

import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from certificates import Authority
from conftest import StartServer
from health import assert_healthy, assert_unhealthy, check


def test_a_server_that_serves_is_healthy(start_server: StartServer) -> None:
    assert_healthy(check(start_server().port))


def test_a_server_that_wants_a_token_is_healthy_without_one(start_server: StartServer) -> None:
    assert_healthy(check(start_server({"CODEX_SERVE_TOKEN": "t" * 16}).port))


def test_a_server_with_a_certificate_for_another_name_is_healthy(
    start_server: StartServer, tmp_path: Path
) -> None:
    settings = Authority(tmp_path).settings
    server = start_server(settings)
    assert_healthy(check(server.port, {**settings, "HOST": "localhost"}))
    assert_unhealthy(check(server.port), "does not answer")  # it was TLS that was spoken above


@pytest.mark.parametrize(
    ("listens", "asked"),
    [
        ("127.0.0.1", "0.0.0.0"),
        pytest.param("::1", "::", marks=pytest.mark.needs("ipv6")),
    ],
)
def test_a_server_on_every_address_is_asked_on_loopback(
    start_server: StartServer, listens: str, asked: str
) -> None:
    server = start_server({}, ["--host", listens])
    assert_healthy(check(server.port, {"HOST": asked}))


@pytest.mark.slow
def test_a_server_that_hangs_is_not_healthy(start_server: StartServer) -> None:
    server = start_server()
    server.signal(signal.SIGSTOP)
    try:
        assert_unhealthy(check(server.port), "nothing came within 5 s")
    finally:
        server.signal(signal.SIGCONT)


@pytest.mark.slow
def test_a_byte_now_and_then_is_not_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def trickle() -> None:
            peer, _ = listener.accept()
            with peer, suppress(ConnectionError):  # it does not wait for the next byte
                peer.sendall(b"HTTP/1.1 200 OK\r\n")
                while not leaving.wait(0.1):
                    peer.sendall(b"x")

        leaving = threading.Event()
        trickler = threading.Thread(target=trickle)
        trickler.start()
        try:
            assert_unhealthy(check(port), "nothing came within 5 s")
        finally:
            leaving.set()
            trickler.join()


def test_no_server_is_not_healthy() -> None:
    with socket.socket() as nobody:
        # Bound but not listening: it refuses, and nobody else can be given the port meanwhile.
        nobody.bind(("127.0.0.1", 0))
        assert_unhealthy(check(nobody.getsockname()[1]), "Connection refused")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"HTTP/1.1 503 Busy\r\n\r\n", "status 503"), (b"SSH-2.0-x\r\n", "SSH-2.0"), (b"", "closed")],
)
def test_another_answer_is_not_healthy(answer: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_once() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(answer)

        answerer = threading.Thread(target=answer_once)
        answerer.start()
        done = check(listener.getsockname()[1])
        answerer.join()
    assert_unhealthy(done, reason)


def test_settings_that_cannot_work_are_the_reason() -> None:
    assert_unhealthy(check(8000, {"LOG_LEVEL": "loud"}), "LOG_LEVEL must be one of")
