"""HTTPS: the same server behind TLS 1.2 and up."""

import http.client
import json
import os
import signal
import ssl
import warnings
from contextlib import suppress
from pathlib import Path

import pytest

from certificates import Authority
from conftest import StartServer
from process_tree import alive, open_fds, wait_gone, wait_until
from serving import Server, exit_code, refused_start


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def connect(server: Server, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", server.port, timeout=30, context=context)


def start_run(connection: http.client.HTTPConnection, script: str) -> http.client.HTTPResponse:
    body = json.dumps({"cli": "sh", "args": ["-c", script]})
    connection.request("POST", "/run", body, {"Content-Type": "application/json"})
    return connection.getresponse()


def test_a_run_streams_over_https(start_server: StartServer, authority: Authority) -> None:
    server = start_server(authority.settings)
    assert any("listening on https://" in line for line in server.log)
    connection = connect(server, authority.client())
    for number in range(2):  # the connection is kept
        events = [json.loads(line) for line in start_run(connection, f"echo {number}; exit 3")]
        assert events[0] == {"type": "stdout", "data": f"{number}\n"}
        assert exit_code(events) == 3
    connection.close()


def test_a_large_output_arrives_whole(start_server: StartServer, authority: Authority) -> None:
    server = start_server(authority.settings)
    connection = connect(server, authority.client())
    response = start_run(connection, "head -c 3000000 /dev/zero | tr '\\0' x")
    events = [json.loads(line) for line in response]
    assert sum(len(event.get("data", "")) for event in events) == 3_000_000
    connection.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_http_1_1_is_what_alpn_offers(
    start_server: StartServer, authority: Authority, version: ssl.TLSVersion
) -> None:
    server = start_server(authority.settings)
    context = authority.client()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        server.connect() as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_tls_1_1_is_refused(start_server: StartServer, authority: Authority) -> None:
    server = start_server(authority.settings)
    context = authority.client()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with server.connect() as plain, pytest.raises((ssl.SSLError, ConnectionResetError)):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_a_client_that_leaves_ends_the_run(start_server: StartServer, authority: Authority) -> None:
    server = start_server(authority.settings)
    connection = connect(server, authority.client())
    response = start_run(connection, "echo $$; exec sleep 60")
    pid = int(json.loads(response.readline())["data"])
    assert alive(pid)
    response.close()
    connection.close()
    wait_gone(pid)


@pytest.mark.slow
def test_a_client_that_never_reads_is_let_go(
    start_server: StartServer, authority: Authority
) -> None:
    server = start_server({**authority.settings, "WRITE_TIMEOUT_SECONDS": "1"})
    first = connect(server, authority.client())
    start_run(first, "true").read()  # after it a supervisor is waiting, and one is forked ahead
    first.close()
    before = open_fds(server.pid)
    connection = connect(server, authority.client())
    response = start_run(connection, "echo $$; exec cat /dev/zero")
    pid = int(json.loads(response.readline())["data"].split("\n")[0])
    wait_gone(pid)
    wait_until(lambda: open_fds(server.pid) <= before, "the end of the connection")
    response.close()
    connection.close()


@pytest.mark.slow
def test_what_is_not_tls_harms_nobody_and_does_not_stay(
    start_server: StartServer, authority: Authority
) -> None:
    server = start_server({**authority.settings, "HEADER_TIMEOUT_SECONDS": "1"})
    before = open_fds(server.pid)
    for data in (
        b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\xff\xff",
        b"\0" * 999,
        b"",
    ):
        with server.connect() as raw, suppress(ConnectionResetError):
            raw.sendall(data)
            while raw.recv(1000):
                pass
    wait_until(lambda: open_fds(server.pid) <= before, "the end of the connections")
    connection = connect(server, authority.client())
    assert exit_code([json.loads(line) for line in start_run(connection, "exit 5")]) == 5
    connection.close()
    assert not any("Traceback" in line for line in server.log)


@pytest.mark.slow
def test_a_stop_is_obeyed_though_a_client_does_not_read(
    start_server: StartServer, authority: Authority
) -> None:
    quick = {"SHUTDOWN_GRACE_SECONDS": "0.3", "RUN_KILL_GRACE_SECONDS": "0.3"}
    server = start_server({**authority.settings, **quick})
    connection = connect(server, authority.client())
    response = start_run(connection, "exec cat /dev/zero")
    response.readline()
    server.signal(signal.SIGTERM)
    assert server.process.wait(30) == 0
    response.close()
    connection.close()


@pytest.mark.parametrize("missing", ["TLS_CERT_FILE", "TLS_KEY_FILE"])
@pytest.mark.parametrize("how", ["unset", "no such file", "not PEM", "of another pair"])
def test_a_bad_pair_is_one_clear_line_at_start(
    authority: Authority, tmp_path: Path, missing: str, how: str
) -> None:
    settings = authority.settings
    (tmp_path / "other").mkdir()
    match how:
        case "unset":
            settings[missing] = ""
        case "no such file":
            settings[missing] = str(tmp_path / "nowhere.pem")
        case "not PEM":
            (tmp_path / "garbage.pem").write_bytes(os.urandom(100))
            settings[missing] = str(tmp_path / "garbage.pem")
        case _:
            settings[missing] = Authority(tmp_path / "other").settings[missing]
    assert "TLS_CERT_FILE and TLS_KEY_FILE must be" in refused_start(env=settings)
