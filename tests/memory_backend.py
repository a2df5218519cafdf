"""A backend without any process: what it executes is a list of steps in memory."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from codex_serve.core.errors import ApiError
from codex_serve.core.execution import Ended, Execution, RunInfo
from codex_serve.core.json_text import Prompt
from codex_serve.core.request import RunRequest


class Queue:
    """What one stream still has to say."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](100)

    def put(self, data: bytes) -> None:
        self._send.send_nowait(data)

    def finish(self) -> None:
        self._send.close()

    async def receive(self) -> bytes:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            return b""


class MemoryExecution:
    """Says ``words`` and its prompt, then ends, or not before it is told to."""

    def __init__(self, words: Sequence[str], prompt: Prompt, *, endless: bool) -> None:
        self.stdout = Queue()
        self.stderr = Queue()
        self._words = words
        self._prompt = prompt
        self._over = trio.Event()
        self._endless = endless

    async def start(self, limit_s: float) -> None:
        await trio.lowlevel.checkpoint()
        for word in self._words:
            self.stdout.put(word.encode())
        if not self._endless and not self._prompt:
            self._finish()

    async def feed(self) -> None:
        while self._prompt:
            self.stderr.put(bytes(self._prompt.piece))
            self._prompt.advance(len(self._prompt.piece))
            await trio.lowlevel.checkpoint()
        if not self._endless:
            self._finish()

    async def wait(self) -> Ended:
        await self._over.wait()
        return Ended(7)

    async def end(self) -> None:
        self._finish()

    def _finish(self) -> None:
        self._over.set()
        self.stdout.finish()
        self.stderr.finish()


class MemoryBackend:
    """Counts what lives; refuses the CLI ``nobody``; ``endless`` ends when it is ended."""

    ending_s = 0.0

    def __init__(self) -> None:
        self.live = 0

    def execute(
        self, info: RunInfo, request: RunRequest, prompt: Prompt
    ) -> AbstractAsyncContextManager[Execution]:
        if request.cli == "nobody":
            raise ApiError(422, "invalid_request", "Nobody is not here.")
        return self._open(request, prompt)

    @asynccontextmanager
    async def _open(self, request: RunRequest, prompt: Prompt) -> AsyncIterator[Execution]:
        self.live += 1
        try:
            yield MemoryExecution(request.args, prompt, endless=request.cli == "endless")
        finally:
            self.live -= 1

    async def explain(self, info: RunInfo, exit_code: int) -> str:
        return f"it said {exit_code}\n"
