"""The peer: the same job on FastAPI, uvicorn and asyncio, done the usual way.

    python fastapi_server.py PORT

A task for each stream reads lines, a bounded queue joins them, and
``StreamingResponse`` sends one event for each line. A client that leaves kills
the command; what the command has started stays, and nothing guards against
that, or against a server that is killed. uvicorn runs with httptools, without
its access log, which would cost it some 40 µs a request, and on asyncio's own
event loop: on uvloop, which forks the whole server where asyncio calls
``vfork``, ``true`` takes more than twice as long.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

MAX_LINE_BYTES = 1024 * 1024
MAX_QUEUED_LINES = 100

app = FastAPI()


class RunRequest(BaseModel):
    cli: str
    args: list[str] = []
    stdin: str = ""


@app.get("/models")
async def models() -> dict[str, object]:
    return {"models": ["auto"], "count": 1}


@app.post("/run")
async def run(request: RunRequest) -> StreamingResponse:
    process = await asyncio.create_subprocess_exec(
        *(request.cli, *request.args),
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        limit=MAX_LINE_BYTES,
    )
    return StreamingResponse(events(process, request.stdin), media_type="application/x-ndjson")


async def events(process: Process, stdin: str) -> AsyncIterator[str]:
    queue: asyncio.Queue[dict[str, object] | None] = asyncio.Queue(MAX_QUEUED_LINES)

    async def read(stream: asyncio.StreamReader, kind: str) -> None:
        while line := await stream.readline():
            await queue.put({"type": kind, "data": line.decode(errors="replace")})

    async def feed() -> None:
        with suppress(ConnectionError, RuntimeError):  # the command has gone; uvloop has its own
            process.stdin.write(stdin.encode())
            await process.stdin.drain()
        process.stdin.close()

    async def work() -> None:
        await asyncio.gather(read(process.stdout, "stdout"), read(process.stderr, "stderr"), feed())
        await queue.put(None)

    task = asyncio.create_task(work())
    try:
        while (event := await queue.get()) is not None:
            yield json.dumps(event) + "\n"
        yield json.dumps({"type": "exit", "code": await process.wait()}) + "\n"
    finally:
        task.cancel()
        if process.returncode is None:
            process.kill()


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(app, port=port, loop="asyncio", log_level="warning", access_log=False)
