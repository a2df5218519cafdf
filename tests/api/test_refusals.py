"""Bad input: a 4xx whose body the plugin can show, and nothing started."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answers import JSON, check_error, raw
from conftest import StartServer
from serving import Server


def test_models_and_clis(start_server: StartServer) -> None:
    server = start_server({"MODEL_LIST": "gpt-4, auto,,gpt-4", "CLI_LIST": "codex,claude"})
    models = server.request("GET", "/models")
    assert (models.status, models.headers["Content-Type"]) == (200, "application/json")
    assert json.loads(models.body) == {"models": ["gpt-4", "auto"], "count": 2}
    assert json.loads(server.request("GET", "/clis").body) == {
        "clis": ["codex", "claude"],
        "count": 2,
    }


def test_models_and_clis_by_default(start_server: StartServer) -> None:
    server = start_server({"MODEL_LIST": "", "CLI_LIST": ""})
    assert json.loads(server.request("GET", "/models").body) == {"models": ["auto"], "count": 1}
    assert json.loads(server.request("GET", "/clis").body) == {"clis": ["codex"], "count": 1}


def test_a_base_url_with_a_trailing_slash_works(server: Server) -> None:
    assert server.request("GET", "//models").status == 200
    assert server.request("GET", "//clis").status == 200
    answer = server.post({"cli": "true"}, path="//run")  # a redirect would be refused
    assert (answer.status, answer.events) == (200, [{"type": "exit", "code": 0}])


def test_a_path_with_a_trailing_slash_works(server: Server) -> None:
    for path in ("/models", "/clis"):
        assert server.request("GET", f"{path}/").body == server.request("GET", path).body
    answer = server.post({"cli": "true"}, path="/run/")
    assert (answer.status, answer.events) == (200, [{"type": "exit", "code": 0}])
    check_error(server.request("GET", "/run/"), 405, "method_not_allowed")


def test_malformed_json_is_400(server: Server) -> None:
    assert "JSON" in check_error(server.post(b'{"cli": '), 400, "malformed_json")
    check_error(server.post(b"[" * 100_000), 400, "malformed_json")


def test_wrong_shape_is_422(server: Server) -> None:
    assert "cli" in check_error(server.post(b"{}"), 422, "invalid_request")


def test_an_unknown_cli_is_400_and_the_known_are_named(server: Server) -> None:
    detail = check_error(server.post({"cli": "rm"}), 400, "unknown_cli")
    assert "sh, python3, cat, true, no-such-cli" in detail


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "text/plain; application/json"},
        {"Content-Type": "application/jsonp"},
    ],
)
def test_another_content_type_starts_nothing(
    server: Server, tmp_path: Path, headers: dict[str, str]
) -> None:
    trace = tmp_path / "trace"
    body = json.dumps({"cli": "sh", "args": ["-c", f"touch {trace}"]}).encode()
    check_error(server.request("POST", "/run", body, headers), 415, "unsupported_media_type")
    assert not trace.exists()
    assert server.request("POST", "/run", body, JSON).status == 200  # the control
    assert trace.exists()


def test_a_content_type_may_have_parameters(server: Server) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert server.request("POST", "/run", b'{"cli": "true"}', headers).status == 200


def test_a_browsers_question_about_origins_is_not_granted(server: Server) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = server.request("OPTIONS", "/run", None, headers)
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_too_large_is_413_whether_the_length_is_told_or_not(start_server: StartServer) -> None:
    server = start_server({"RUN_MAX_REQUEST_BYTES": "1000"})
    exact = json.dumps({"cli": "true", "stdin": ""}).encode()
    exact = exact[:-2] + b"x" * (1000 - len(exact)) + exact[-2:]
    assert server.post(exact).status == 200
    for size in (1001, 10_000_000):
        detail = check_error(server.post(b" " * size), 413, "request_too_large")
        assert "1000 bytes" in detail
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (size, b" " * size)
        head = b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        answer = raw(server, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk)
        check_error(answer, 413, "request_too_large")


def test_the_default_limit_is_16_mib(server: Server) -> None:
    body = b'{"cli": "true", "stdin": "%s"}'
    fits = body % (b"x" * (16 * 1024 * 1024 - len(body) + 2))
    assert server.post(fits).status == 200
    check_error(server.post(fits + b" "), 413, "request_too_large")


@pytest.mark.parametrize("path", ["/", "/nope", "/run/x", "/nope/", "/static/x", "/%2e%2e/run"])
def test_an_unknown_path_is_404(server: Server, path: str) -> None:
    assert "/run, /models or /clis" in check_error(server.request("GET", path), 404, "not_found")


def test_another_method_is_405_and_the_right_one_is_named(server: Server) -> None:
    answer = server.request("GET", "/run")
    assert "POST" in check_error(answer, 405, "method_not_allowed")
    assert "POST" in answer.headers["Allow"]
    check_error(server.request("DELETE", "/models"), 405, "method_not_allowed")


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"garbage\r\n\r\n", 400, "bad_request"),
        (b"GET /models HTTP/1.1\r\n\r\n", 400, "bad_request"),
        (b"GET models HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"GET ?x HTTP/1.1\r\nHost: x\r\n\r\n", 400, "bad_request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "http_version_not_supported"),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000,
            431,
            "request_header_fields_too_large",
        ),
        (
            b"POST /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
            501,
            "not_implemented",
        ),
        (
            b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            400,
            "bad_request",
        ),
        (
            b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
            400,
            "bad_request",
        ),
    ],
)
def test_what_is_not_http_gets_our_error_too(
    server: Server, data: bytes, status: int, code: str
) -> None:
    check_error(raw(server, data), status, code)
    assert server.request("GET", "/models").status == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"HEAD /models HTTP/1.1\r\n\r\n", 400),
        (b"HEAD /models HTTP/1.1\r\nHost: x\r\nX : y\r\n\r\n", 400),
        (b"HEAD models HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"HEAD /models HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", 400),
        (b"HEAD /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"HEAD /models HTTP/1.2\r\nHost: x\r\n\r\n", 505),
        (b"HEAD /models HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"HEAD /models HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 100_000, 431),
        (b"HEAD /nope HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 404),
        (b"HEAD /run HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"HEAD /models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 200),
        (b"\r\nHEAD /models/ HTTP/1.0\r\nHost: x\r\n\r\n", 200),
    ],
)
def test_head_is_answered_with_a_head_only(server: Server, data: bytes, status: int) -> None:
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(data)
        head, end, body = file.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert end
    assert body == b""
    lines = head.lower().split(b"\r\n")
    assert b"content-type: application/json" in lines
    assert b"connection: close" in lines
    if status == 200:
        length = len(server.request("GET", "/models").body)
        assert b"content-length: %d" % length in lines


def test_head_may_have_a_body_and_be_followed_by_another(server: Server) -> None:
    with server.connect() as connection, connection.makefile("rb") as file:
        connection.sendall(
            b"HEAD /models HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
            b"helloHEAD /models HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        for _ in range(2):
            assert file.readline() == b"HTTP/1.1 200 OK\r\n"
            while file.readline().strip():
                pass


def test_errors_of_http_hold_nothing_of_the_request(server: Server) -> None:
    answer = raw(server, b"GET /models HTTP/1.1\r\nHost: x\r\nsecret value\r\n\r\n")
    detail = check_error(answer, 400, "bad_request")
    assert detail == "The request is not valid HTTP: illegal header line."


def test_an_absolute_target_is_understood(server: Server) -> None:
    answer = raw(server, b"GET http://host:1/models?x HTTP/1.1\r\nHost: host:1\r\n\r\n")
    assert answer.status == 200


def test_a_client_that_waits_for_100_continue_is_told_to_go_on(server: Server) -> None:
    body = b'{"cli": "true"}'
    with server.connect() as connection:
        connection.sendall(
            b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(body)
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS"]),
    target=st.text("/abc%?#[]@:;.~\\'\"<>{}|^`019", max_size=20),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["Content-Type", "Host", "Cookie", "Range", "Accept", "X-Y", "Origin"]),
            st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF), max_size=20),
        ),
        max_size=3,
    ),
    body=st.binary(max_size=100),
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_request_is_answered_with_a_5xx(
    server: Server, method: str, target: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    head = f"{method} /{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers)
    head += f"Content-Length: {len(body)}\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head.encode("latin-1") + body)
        status_line = connection.makefile("rb").readline()
    assert status_line.split()[1].startswith((b"2", b"4")), status_line
