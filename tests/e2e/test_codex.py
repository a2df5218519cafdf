"""The real codex, run by the real server: a prompt goes in, the model's answer comes out.

Everything is real but the model. codex and its Node come from npm, each at one exact version
(``package.json``); ``test.sh`` installs them and names the folder in ``CODEX_E2E_NODE_MODULES``.
"""

import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from model_stand_in import StandIn
from serving import Server, exit_code, text_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.needs("e2e")]

StartServer = Callable[..., Server]

ENTRYPOINT = Path(__file__).parents[2] / "codex.docker" / "docker-entrypoint.sh"


@pytest.fixture
def node_modules() -> Path:
    """The folder that ``npm ci`` filled."""
    return Path(os.environ["CODEX_E2E_NODE_MODULES"])


def environment_for(home: Path, node_modules: Path, base_url: str) -> dict[str, str]:
    """Return the environment of a server that runs codex through the entrypoint.

    Neither the user's files nor the user's settings have a part in the test: ``home`` is empty,
    codex has another of the run's own, and the way to the model goes through no proxy.
    """
    # codex starts with "#!/usr/bin/env node", so the pinned Node has to come first on PATH too.
    # npm before 11 puts no link to it into .bin, because two packages of the lock file claim it.
    folders = [node_modules / ".bin", *node_modules.glob("node-linux-*/bin")]
    # npm leaves out in silence what fails to arrive or has no build for this platform. A codex or
    # Node from further down PATH would then be tested in place of the pinned one.
    for program in ("codex", "node"):
        assert any((folder / program).is_file() for folder in folders), f"npm left out {program}"
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath)])
    return {
        "CLI_LIST": "codex",
        "CLI_ENTRYPOINT": str(ENTRYPOINT),
        "HOME": str(home),
        "PATH": path,
        "LITELLM_BASE_URL": base_url,
        "LITELLM_API_KEY": "any-key-will-do",
        "NO_PROXY": "127.0.0.1",
    }


def prompt_of(request: Mapping[str, Any]) -> str:
    """The text that the user sent last.

    codex puts messages of its own before it, of the user's role too: the last one is the prompt.
    """
    from_user = [item for item in request["input"] if item.get("role") == "user"]
    return "".join(part["text"] for part in from_user[-1]["content"])


def codex_run(prompt: str) -> dict[str, Any]:
    return {"cli": "codex", "args": ["exec", "--skip-git-repo-check", "-"], "stdin": prompt}


def test_the_prompt_reaches_the_model_and_its_answer_comes_back(
    start_server: StartServer, node_modules: Path, tmp_path: Path
) -> None:
    nonce = f"nonce-{secrets.token_hex(8)}"
    prompt = f"Grüße aus Zürich: repeat {nonce}\nand nothing else.\n"
    record = tmp_path / "requests.jsonl"
    with StandIn(("127.0.0.1", 0), record) as model:
        server = start_server(env=environment_for(tmp_path, node_modules, model.base_url))
        status, events = server.post_run(codex_run(prompt))

    assert status == 200
    assert exit_code(events) == 0, text_of(events, "stderr")
    # The plugin shows stdout as the answer, so the answer is all that may be there.
    assert text_of(events, "stdout").strip() == nonce
    (request,) = record.read_text().splitlines()
    assert prompt_of(json.loads(json.loads(request)["body"])) == prompt


def test_a_model_that_is_down_ends_the_run_with_a_reason(
    start_server: StartServer, node_modules: Path, tmp_path: Path
) -> None:
    with socket.socket() as down:
        # Bound but not listening: it refuses, and nobody else can be given the port meanwhile.
        down.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{down.getsockname()[1]}/v1"
        server = start_server(env=environment_for(tmp_path, node_modules, base_url))
        status, events = server.post_run(codex_run("Is anybody there?"))

    assert status == 200
    assert exit_code(events) == 1
    assert text_of(events, "stdout") == ""
    assert "Connection failed" in text_of(events, "stderr")
