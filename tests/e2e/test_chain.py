"""The whole chain, nothing left out but the model: what the plugin sends goes in, an answer comes.

    our server, in its container → a CLI, in a container beside it → the real LiteLLM proxy
    → a stand-in for the model, which knows nothing but how to repeat a nonce

``test.sh`` installs LiteLLM and names its command in ``CODEX_E2E_LITELLM``.
"""

import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from chain import CELL_TIMEOUT_S, CLIS, KEY, MODEL, OTHER_ACCOUNTS, Chain, chain
from containers import RUNS_IMAGES, WITH_SOCKET, ContainerServer
from engine import Mark
from serving import exit_code, text_of

pytestmark = [*RUNS_IMAGES, pytest.mark.e2e, pytest.mark.needs("litellm")]


@pytest.fixture(scope="module")
def proxy(cli_image: str) -> Iterator[Chain]:
    """LiteLLM and the stand-in."""
    with chain(os.environ["CODEX_E2E_LITELLM"], image=cli_image) as running:
        yield running


@pytest.fixture(scope="module")
def mark() -> Iterator[Mark]:
    mark = Mark()
    yield mark
    mark.remove_all()


@pytest.fixture(scope="module")
def server(
    server_image: str, cli_image: str, proxy: Chain, mark: Mark
) -> Iterator[ContainerServer]:
    # What an operator has in the image or its options, for other uses of it: no run may obey it.
    inherited = [f"--env={name}={value}" for name, value in OTHER_ACCOUNTS.items()]
    env = {
        "CODEX_DOCKER_IMAGE": cli_image,
        "CLI_LIST": ",".join(CLIS),
        "MODEL_LIST": f"auto,{MODEL}",
        "LITELLM_BASE_URL": proxy.base_url,
        "LITELLM_API_KEY": KEY,
        "DOCKER_RUN_ARGS": shlex.join([mark.option, *inherited]),
    }
    with ContainerServer(server_image, [WITH_SOCKET], env) as server:
        server.silence_s = CELL_TIMEOUT_S  # opencode alone is silent for 30 s on a busy machine
        yield server


@pytest.mark.parametrize("args", [[], ["--model", MODEL]], ids=["no model", "a model"])
@pytest.mark.parametrize("cli", CLIS)
def test_what_the_plugin_sends_is_answered(
    server: ContainerServer, proxy: Chain, mark: Mark, cli: str, args: list[str]
) -> None:
    assert_answered(server, proxy, mark, {"cli": cli, "args": args})


def test_a_request_cannot_name_another_account_for_claude(
    server: ContainerServer, proxy: Chain, mark: Mark
) -> None:
    request = {"cli": "claude", "env": OTHER_ACCOUNTS}
    assert_answered(server, proxy, mark, request)


def assert_answered(
    server: ContainerServer, proxy: Chain, mark: Mark, request: Mapping[str, Any]
) -> None:
    proxy.record.write_text("")
    nonce = f"nonce-{secrets.token_hex(8)}"
    prompt = f"Grüße aus Zürich: repeat this and nothing else: {nonce}\n"
    status, events = server.post_run({**request, "stdin": prompt})
    assert mark.containers() == []
    assert status == 200
    assert exit_code(events) == 0, text_of(events, "stderr")
    # The plugin shows stdout as the answer, so the answer is all that may be there.
    assert text_of(events, "stdout").strip() == nonce
    requests = [json.loads(line) for line in proxy.record.read_text().splitlines()]
    assert {json.loads(request["body"])["model"] for request in requests} == {MODEL}
