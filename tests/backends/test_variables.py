"""What a run gets of its request's variables, and where the server's key goes: in every mode."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from codex_serve.backends.variables import _NOT_OF_A_PROVIDER, overlay, passed
from conftest import StartServer
from containers import ROOT
from engine import BASE_IMAGE, NEEDS_ENGINE
from serving import Server, exit_code, text_of

KEY = "sk-the-servers"
ELSEWHERE = "http://127.0.0.1:9"

# Stands for a CLI: calls the proxy with its key, and goes through HTTP_PROXY, as urllib does.
CALL = """\
import os, urllib.request
key = os.environ.get("LITELLM_API_KEY", "")
request = urllib.request.Request(os.environ["LITELLM_BASE_URL"], headers={"Authorization": key})
urllib.request.urlopen(request, timeout=30).close()
"""
SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


class Listener(ThreadingHTTPServer):
    """A proxy of somebody's own, which remembers the keys that it was sent."""

    def __init__(self) -> None:
        keys: list[str | None] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                keys.append(self.headers["Authorization"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_args: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.keys = keys
        self.url = f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as listening:
        thread = Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


@pytest.fixture(params=["local", "entrypoint", pytest.param("docker", marks=NEEDS_ENGINE)])
def serve(
    request: pytest.FixtureRequest, start_server: StartServer, tmp_path: Path
) -> Callable[..., Server]:
    """Start a server in each of the modes, with a ``codex`` that executes Python."""
    codex = tmp_path / "codex"
    codex.write_text(f"#!{sys.executable} -I\nimport sys\nexec(sys.argv[2])\n")
    codex.chmod(0o755)
    settings = {
        "local": {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        "entrypoint": {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "CLI_ENTRYPOINT": str(ROOT / "codex.docker/docker-entrypoint.sh"),
        },
        "docker": {
            "CODEX_DOCKER_IMAGE": BASE_IMAGE,
            "DOCKER_PULL": "missing",
            "DOCKER_NETWORK": "host",
            "DOCKER_LEASE_DIR": str(tmp_path),
            # A codex of this container, in place of the entrypoint.
            "DOCKER_RUN_ARGS": f"--volume={tmp_path}/in-docker:/usr/local/bin/codex:ro",
        },
    }[request.param]
    (tmp_path / "in-docker").write_text("#!/usr/bin/env python3\nimport sys\nexec(sys.argv[2])\n")
    (tmp_path / "in-docker").chmod(0o755)
    tmp_path.chmod(0o755)

    def start(**env: str) -> Server:
        return start_server({"CLI_LIST": "codex", "LITELLM_API_KEY": KEY, **settings, **env})

    return start


def test_the_key_goes_to_the_servers_own_url(
    serve: Callable[..., Server], listener: Listener
) -> None:
    server = serve(LITELLM_BASE_URL=listener.url)
    for env in ({}, {"LITELLM_BASE_URL": listener.url}, {"FOO": "bar"}):
        assert exit_code(server.run("codex", "-c", CALL, env=env)) == 0
    assert listener.keys == [KEY] * 3


@pytest.mark.parametrize("servers", [ELSEWHERE, ""], ids=["another", "none"])
def test_no_key_of_the_servers_goes_to_a_url_that_the_request_names(
    serve: Callable[..., Server], listener: Listener, servers: str
) -> None:
    server = serve(LITELLM_BASE_URL=servers)
    for env in ({}, {"LITELLM_API_KEY": "sk-the-clients"}):
        run = server.run("codex", "-c", CALL, env={"LITELLM_BASE_URL": listener.url, **env})
        assert exit_code(run) == 0, text_of(run, "stderr")
    assert listener.keys[0] in ("", "none")
    assert listener.keys[1:] == ["sk-the-clients"]


@pytest.mark.parametrize("serve", ["local", "entrypoint"], indirect=True)
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_key_of_the_servers_goes_through_a_proxy_that_the_request_names(
    serve: Callable[..., Server], listener: Listener, variable: str
) -> None:
    server = serve(LITELLM_BASE_URL=ELSEWHERE)
    # urllib knows no ALL_PROXY; what counts here is what the run was given.
    show = f"{CALL if 'http' in variable.lower() else ''}\nimport os\nprint(os.environ)"
    run = server.run("codex", "-c", show, env={variable: listener.url})
    assert exit_code(run) == 0, text_of(run, "stderr")
    assert KEY not in text_of(run, "stdout")
    assert KEY not in listener.keys


@pytest.mark.parametrize("serve", ["entrypoint"], indirect=True)
def test_a_cli_gets_what_request_and_operator_named_and_nothing_else(
    serve: Callable[..., Server],
) -> None:
    server = serve(
        LITELLM_BASE_URL=ELSEWHERE,
        CLI_ENV_PASS="ANTHROPIC_SMALL_FAST_MODEL, SHARED",
        ANTHROPIC_SMALL_FAST_MODEL="operator's",
        ANTHROPIC_MODEL="inherited",
        SHARED="operator's",
        UNNAMED="inherited",
    )
    named = {"FOO": "bar", "GIT_AUTHOR_NAME": 'Zoë\n"O\'Neil"', "npm_config_cache": "/x"}
    refused = {
        "OPENAI_MODEL": "requested",
        "CLAUDE_CODE_USE_FOUNDRY": "1",
        "CLI_ENV_PASS": "UNNAMED,OPENAI_MODEL",
        "A B,UNNAMED,C": "injected",
        "XDG_CONFIG_HOME": "/elsewhere",
    }
    run = server.run("codex", "-c", SHOW, env={**named, **refused})
    seen = json.loads(text_of(run, "stdout"))
    assert seen.items() >= named.items()
    assert seen["SHARED"] == seen["ANTHROPIC_SMALL_FAST_MODEL"] == "operator's"
    assert not seen.keys() & {"UNNAMED", "ANTHROPIC_MODEL", *refused} - {"CLI_ENV_PASS"}


def test_the_documents_name_each_beginning_that_is_kept_from_a_cli() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    listed = text.partition("all that begin with ")[2].partition(". Only names")[0]
    beginnings = re.findall(r"`([A-Z_]+)`", listed)
    assert beginnings
    assert passed((), {f"{beginning}X": "" for beginning in beginnings}) == ""
    kept = re.findall(r"[A-Z_]+", _NOT_OF_A_PROVIDER.pattern.partition(")")[0])
    assert sorted(beginnings) == sorted(kept)


OURS = {"LITELLM_BASE_URL": "http://ours", "LITELLM_API_KEY": KEY, "HTTPS_PROXY": "http://p"}


@pytest.mark.parametrize(
    ("env", "key"),
    [
        ({}, KEY),
        ({"LITELLM_BASE_URL": "http://ours", "HTTPS_PROXY": "http://p"}, KEY),
        ({"LITELLM_MODEL": "m", "NO_PROXY": "x"}, KEY),
        ({"LITELLM_BASE_URL": "http://theirs"}, ""),
        ({"LITELLM_BASE_URL": ""}, ""),
        ({"HTTPS_PROXY": "http://theirs"}, ""),
        ({"http_proxy": "http://p"}, ""),
        ({"LOCALDOMAIN": "theirs.example"}, ""),
        ({"LITELLM_BASE_URL": "http://theirs", "LITELLM_API_KEY": "theirs"}, "theirs"),
    ],
)
def test_the_key_goes_with_its_url(env: dict[str, str], key: str) -> None:
    assert overlay(OURS, env) == {**OURS, **env, "LITELLM_API_KEY": key}


@pytest.mark.parametrize(
    "name",
    [
        *("CLAUDE_CODE_USE_FOUNDRY", "CLAUDE_CODE_USE_MANTLE", "CLAUDE_CODE_USE_ANTHROPIC_AWS"),
        *("CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD", "ANTHROPIC_UNIX_SOCKET", "CLAUDE_CONFIG_DIR"),
        *("CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "ANTHROPIC_MODEL", "OPENAI_MODEL"),
        *("GEMINI_MODEL", "GOOGLE_API_KEY", "CODEX_HOME", "OPENCODE_CONFIG", "QWEN_HOME"),
        *("AWS_PROFILE", "AZURE_X", "DASHSCOPE_API_KEY", "NODE_OPTIONS", "XDG_CONFIG_HOME"),
        *("a.b", "a b", "a,b", "1a", "_a", "é", "", "BASH_FUNC_x%%", "a\n", "A\nB"),
    ],
)
def test_a_request_cannot_give_a_cli_what_its_provider_reads(name: str) -> None:
    assert passed((), {name: "x", "FOO": "x"}) == "FOO"
    assert passed(("OPENAI_MODEL",), {name: "x"}) == "OPENAI_MODEL"
