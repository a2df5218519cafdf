"""The server behind Debian's nginx, with the settings that people start with."""

import copy
import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from answers import check_error
from conftest import StartServer
from needs import find_nginx
from process_tree import alive, wait_gone
from serving import Server, exit_code, text_of

pytestmark = pytest.mark.needs("nginx")

CONFIG = """
daemon off;
user {user};
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream kept {{
        server 127.0.0.1:{upstream};
        keepalive 4;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ {location} }}
    }}
}}
"""

LOCATIONS = {
    "the default, HTTP/1.0": "proxy_pass http://127.0.0.1:{upstream};",
    "HTTP/1.1": "proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1;",
    "HTTP/1.1 kept alive": (
        'proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection "";'
    ),
}


@contextmanager
def behind_nginx(server: Server, folder: Path, location: str) -> Iterator[Server]:
    """Give ``server`` as it is seen through an nginx of its own."""
    nginx = find_nginx()
    assert nginx is not None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # NGINX names descriptors that are listening already, as in an upgrade of
        # the program: nobody can take the port, and a client can connect at once.
        listener.setblocking(False)
        port, fd = listener.getsockname()[1], listener.fileno()
        config = folder / "nginx.conf"
        text = CONFIG.format(
            folder=folder,
            user=pwd.getpwuid(os.geteuid()).pw_name,  # the workers write into the folder too
            port=port,
            upstream=server.port,
            location=location.format(upstream=server.port),
        )
        config.write_text(text)
        process = subprocess.Popen(
            [nginx, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(config)],
            env={**os.environ, "NGINX": f"{fd};"},
            pass_fds=[fd],
        )
    try:
        seen = copy.copy(server)
        seen.port = port
        yield seen
    finally:
        process.terminate()
        process.wait(30)
    assert " [alert] " not in (folder / "error.log").read_text()


@pytest.fixture(params=LOCATIONS)
def location(request: pytest.FixtureRequest) -> str:
    return LOCATIONS[request.param]


@pytest.fixture
def proxied(server: Server, tmp_path: Path, location: str) -> Iterator[Server]:
    with behind_nginx(server, tmp_path, location) as seen:
        yield seen


def test_an_event_arrives_while_the_command_goes_on_and_leaving_ends_it(proxied: Server) -> None:
    with proxied.stream("sh", "-c", "echo $$; exec sleep 60") as stream:
        pid = int(stream.next_event()["data"])
        assert alive(pid)
    wait_gone(pid)


def test_a_large_run_arrives_whole(proxied: Server) -> None:
    events = proxied.run("sh", "-c", "head -c 1000000 /dev/zero | tr '\\0' x; exit 3")
    assert text_of(events, "stdout") == "x" * 1_000_000
    assert exit_code(events) == 3


def test_runs_follow_one_another(proxied: Server) -> None:
    for code in range(20):
        assert exit_code(proxied.run("sh", "-c", f"exit {code}")) == code


@pytest.mark.parametrize(
    ("body", "path", "status", "code"),
    [
        (b"{", "/run", 400, "malformed_json"),
        (b'{"cli": "nope"}', "/run", 400, "unknown_cli"),
        (b"{}", "/run", 422, "invalid_request"),
        (b"{}", "/nope", 404, "not_found"),
        (b"{}", "/models", 405, "method_not_allowed"),
    ],
)
def test_a_refusal_arrives_unchanged(
    server: Server, proxied: Server, body: bytes, path: str, status: int, code: str
) -> None:
    answer = proxied.post(body, path)
    check_error(answer, status, code)
    assert answer.body == server.post(body, path).body


@pytest.mark.slow
def test_a_refused_large_body_still_gets_its_refusal(
    start_server: StartServer, tmp_path: Path, location: str
) -> None:
    """The server answers while nginx is still sending."""
    server = start_server({"RUN_MAX_REQUEST_BYTES": "1000"})
    with behind_nginx(server, tmp_path, location) as proxied:
        for _ in range(10):
            answer = proxied.post(b" " * 1_000_000)
            assert "1000 bytes" in check_error(answer, 413, "request_too_large")
