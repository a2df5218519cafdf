"""Tokens: who may use the server, and where a token never shows."""

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import TOOLS, StartServer
from process_tree import UNPRIVILEGED
from serving import Answer, Server, exit_code, refused_start, text_of

TOKENS = ("first-token-0123456789", "second.token~0123456789")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows one token from a file and one from its environment."""
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"# for Gerrit\n\n  {TOKENS[0]}  \n")
    settings = {"CODEX_SERVE_TOKEN_FILE": str(file), "CODEX_SERVE_TOKEN": TOKENS[1]}
    with Server({**TOOLS, **settings}) as server:
        yield server


def get(server: Server, path: str, authorization: str | None = None) -> Answer:
    headers = {} if authorization is None else {"Authorization": authorization}
    return server.request("GET", path, None, headers)


@pytest.mark.parametrize("token", TOKENS)
def test_each_token_opens_as_a_header_and_as_a_prefix_of_the_path(
    guarded: Server, token: str
) -> None:
    assert get(guarded, "/models", f"Bearer {token}").status == 200
    assert get(guarded, "/models", f"bearer  {token}").status == 200
    assert get(guarded, f"/t/{token}/models").status == 200
    assert get(guarded, f"/t/{token}//models").status == 200  # a base URL that ends in a slash
    answer = guarded.post({"cli": "sh", "args": ["-c", "echo in"]}, path=f"/t/{token}/run")
    assert answer.events[0] == {"type": "stdout", "data": "in\n"}


NONE = "A token is needed"
WRONG = "none of this server's"
MALFORMED = "must be 'Bearer TOKEN'"


@pytest.mark.parametrize(
    ("path", "authorization", "words"),
    [
        ("/models", None, NONE),
        ("/clis", None, NONE),
        ("/nope", None, NONE),
        ("/models", "Bearer wrong-token-0123456789", WRONG),
        ("/models", f"Bearer {TOKENS[0]}x", WRONG),
        ("/models", f"Bearer {TOKENS[0][:-1]}", WRONG),
        ("/models", "Bearer \xe9", WRONG),
        ("/models", f"Basic {TOKENS[0]}", MALFORMED),
        ("/models", TOKENS[0], MALFORMED),
        ("/models", "Bearer", MALFORMED),
        ("/models", "Bearer ", MALFORMED),
        ("/models", "", MALFORMED),
        ("/t/wrong-token-0123456789/models", None, WRONG),
        ("/t/wrong-token-0123456789/models", "Basic x", WRONG),
        ("/t//models", None, NONE),
        (f"/t/{TOKENS[0]}", None, NONE),
        (f"/x/t/{TOKENS[0]}/models", None, NONE),
    ],
)
def test_without_a_right_token_everything_is_401_and_the_words_say_what_is_wrong(
    guarded: Server, path: str, authorization: str | None, words: str
) -> None:
    answer = get(guarded, path, authorization)
    assert (answer.status, answer.error["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.error["data"] == answer.error["detail"]
    assert words in answer.error["detail"]
    assert "oken-0123" not in answer.error["detail"]


def test_a_refused_run_starts_nothing(guarded: Server, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    body = {"cli": "sh", "args": ["-c", f"touch {trace}"]}
    assert guarded.post(body).status == 401
    assert guarded.post(json.dumps(body).encode() + b" " * 20_000_000).status == 401
    assert not trace.exists()


def test_a_token_appears_in_no_log_and_in_no_answer(start_server: StartServer) -> None:
    server = start_server({"CODEX_SERVE_TOKEN": TOKENS[0], "LOG_LEVEL": "DEBUG"})
    answers = [
        get(server, f"/t/{TOKENS[0]}/nope"),
        get(server, f"/t/{TOKENS[0]}/run"),
        get(server, f"/t/{TOKENS[0]}x/models"),
        server.post(b"{", path=f"/t/{TOKENS[0]}/run"),
        server.post({"cli": "sh", "args": ["-c", "true"]}, path=f"/t/{TOKENS[0]}/run"),
    ]
    assert [answer.status for answer in answers] == [404, 405, 401, 400, 200]
    assert not any(TOKENS[0] in str(answer.body) for answer in answers)
    server.wait_for_log("run of sh")
    assert not any(TOKENS[0] in line for line in server.log)


LOOK_AROUND = """
import json, os, re
token = os.environ.pop("A") + os.environ.pop("B")
pid, found, hidden = os.getppid(), [], []
while pid != int(os.environ["SERVER_PARENT"]):
    for name in ("environ", "mem"):
        try:
            with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/{name}", "rb", 0) as file:
                parts = [(0, 1 << 20)]
                if name == "mem":
                    parts = [tuple(int(end, 16) for end in re.split("[- ]", line)[:2])
                             for line in maps if "rw-p" in line]
                for start, end in parts:
                    if name == "mem":
                        file.seek(start)
                    if token.encode() in file.read(end - start):
                        found.append((pid, name))
        except PermissionError:
            hidden.append((pid, name))
    with open(f"/proc/{pid}/stat") as file:
        pid = int(file.read().rpartition(")")[2].split()[1])
print(json.dumps([found, hidden]))
"""
"""Look for a token, which comes in two parts, in all processes between us and the server."""


@pytest.mark.parametrize("isolation", ["subreaper", "process-group"])
@pytest.mark.parametrize("by_file", [True, False])
def test_a_command_cannot_find_the_token_in_any_process(
    start_server: StartServer, tmp_path: Path, isolation: str, by_file: bool
) -> None:
    """Without privileges, as root it can read all memory."""
    token = secrets.token_hex(16)
    settings = {"CODEX_SERVE_TOKEN": token}
    if by_file:
        (tmp_path / "tokens").write_text(token)
        settings = {"CODEX_SERVE_TOKEN_FILE": str(tmp_path / "tokens")}
    server = start_server({**settings, "RUN_ISOLATION": isolation}, prefix=UNPRIVILEGED)
    env = {"A": token[:16], "B": token[16:], "SERVER_PARENT": str(os.getpid())}
    body = {"cli": "python3", "args": ["-c", LOOK_AROUND], "env": env}
    events = server.post(body, path=f"/t/{token}/run").events
    assert exit_code(events) == 0, events
    found, hidden = json.loads(text_of(events, "stdout"))
    assert found == []
    assert [server.pid, "environ"] in hidden
    assert [server.pid, "mem"] in hidden


def test_an_open_server_beyond_loopback_warns_once(start_server: StartServer) -> None:
    server = start_server(args=["--host", "0.0.0.0"])
    (warning,) = [line for line in server.log if "WARNING" in line]
    assert "whoever reaches this address can run sh, python3" in warning
    assert "CODEX_SERVE_TOKEN_FILE" in warning


@pytest.mark.parametrize(
    ("host", "token"),
    [
        ("127.0.0.1", ""),
        pytest.param("::1", "", marks=pytest.mark.needs("ipv6")),
        ("0.0.0.0", TOKENS[0]),
    ],
)
def test_a_guarded_or_local_server_does_not_warn(
    start_server: StartServer, host: str, token: str
) -> None:
    server = start_server({"CODEX_SERVE_TOKEN": token}, ["--host", host])
    assert not any("WARNING" in line for line in server.log)


@pytest.mark.parametrize(
    ("variable", "content", "words"),
    [
        ("CODEX_SERVE_TOKEN", "short", "at least 16 characters"),
        ("CODEX_SERVE_TOKEN", "with/slash-0123456789", "at least 16 characters"),
        ("CODEX_SERVE_TOKEN_FILE", None, "No such file"),
        ("CODEX_SERVE_TOKEN_FILE", "# nothing\n", "must hold a token"),
        ("CODEX_SERVE_TOKEN_FILE", "short\n", "at least 16 characters"),
    ],
)
def test_tokens_that_cannot_work_stop_the_start(
    tmp_path: Path, variable: str, content: str | None, words: str
) -> None:
    value = content or ""
    if variable.endswith("_FILE"):
        file = tmp_path / "tokens"
        if content is not None:
            file.write_text(content)
        value = str(file)
    line = refused_start(env={variable: value})
    assert words in line
    assert "short" not in line
