"""A run needs nothing that only a process has: the same through a backend in memory."""

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from codex_serve.core.errors import ApiError
from codex_serve.core.json_text import Prompt
from codex_serve.core.request import RunRequest
from codex_serve.runs.registry import Registry
from codex_serve.runs.run import Runner
from memory_backend import MemoryBackend
from serving import exit_code, text_of


class Recorder:
    """Takes the events of one run."""

    def __init__(self) -> None:
        self.data = b""
        self.over = False

    async def begin(self) -> None:
        pass

    async def send(self, data: bytes, *, more: bool = True) -> None:
        assert not self.over
        await trio.lowlevel.checkpoint()
        self.data += data
        self.over = not more

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.data.splitlines()]


def prompt(text: str = "") -> Prompt:
    return Prompt(memoryview(json.dumps(text).encode()))


def make_runner(backend: MemoryBackend, timeout_s: float | None = None) -> Runner:
    return Runner(backend, Registry(), timeout_s)


async def test_output_prompt_exit_code_and_explanation_pass() -> None:
    backend, recorder = MemoryBackend(), Recorder()
    request = RunRequest("any", ("one ", "two"))
    await make_runner(backend).run(request, prompt("Say hello"), recorder)
    assert text_of(recorder.events, "stdout") == "one two"
    assert text_of(recorder.events, "stderr") == "Say helloit said 7\n"
    assert exit_code(recorder.events) == 7
    assert recorder.over
    assert backend.live == 0


async def test_the_time_limit_ends_it(autojump_clock: MockClock) -> None:
    backend, recorder = MemoryBackend(), Recorder()
    await make_runner(backend, timeout_s=50.0).run(RunRequest("endless"), prompt(), recorder)
    assert exit_code(recorder.events) == 124
    assert trio.current_time() >= 50.0
    assert backend.live == 0


async def test_a_stop_of_the_server_ends_it_and_no_other_is_let_in() -> None:
    backend, recorder = MemoryBackend(), Recorder()
    runner = make_runner(backend)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run, RunRequest("endless"), prompt(), recorder)
        await wait_all_tasks_blocked(0.05)
        runner.registry.close()
        with pytest.raises(ApiError) as refused:
            await runner.run(RunRequest("any"), prompt(), Recorder())
        assert refused.value.code == "shutting_down"
        runner.registry.shut_down_all()
        await runner.registry.wait_empty()
    assert exit_code(recorder.events) == 143
    assert backend.live == 0


async def test_a_cancel_leaves_nothing_and_sends_nothing_more() -> None:
    backend, recorder = MemoryBackend(), Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make_runner(backend).run, RunRequest("endless"), prompt(), recorder)
        await wait_all_tasks_blocked(0.05)
        assert backend.live == 1
        nursery.cancel_scope.cancel()
    assert backend.live == 0
    assert recorder.data == b""


async def test_what_a_backend_refuses_is_refused_before_anything_is_sent() -> None:
    backend, recorder = MemoryBackend(), Recorder()
    with pytest.raises(ApiError) as refused:
        await make_runner(backend).run(RunRequest("nobody"), prompt(), recorder)
    assert refused.value.status == 422
    assert recorder.data == b""
    assert backend.live == 0
