"""``POST /run``, ``GET /models`` and ``GET /clis``."""

from functools import partial
from typing import cast

import msgspec
from quart import Response, request
from quart_trio import QuartTrio

from codex_serve.api.streaming import ProducedResponse, PulledRequest
from codex_serve.core.config import Config
from codex_serve.core.errors import ApiError
from codex_serve.core.request import decode_run_request
from codex_serve.runs.run import Runner

_STREAM_HEADERS = {
    "content-type": "application/x-ndjson",
    "cache-control": "no-store",
    "x-accel-buffering": "no",  # else nginx holds a stream back until a buffer is full
}


def add_run_routes(app: QuartTrio, config: Config, runner: Runner) -> None:
    """Add the routes that start runs and tell what can be run.

    To the application, not to a blueprint, whose name Quart takes apart three times
    for each request.
    """

    @app.post("/run")
    async def run() -> ProducedResponse:
        if request.mimetype != "application/json":
            # Any web page may send the other types here from a visitor's browser.
            raise ApiError(
                415,
                "unsupported_media_type",
                "The request must have the header 'Content-Type: application/json'.",
            )
        body = await cast(PulledRequest, request).read(config.max_request_bytes)
        run_request, prompt = decode_run_request(body)
        del body  # the prompt holds it as long as it is needed
        if run_request.cli not in config.clis:
            known = ", ".join(config.clis)
            raise ApiError(
                400, "unknown_cli", f"'cli' must be one of {known}; not {run_request.cli[:64]!r}."
            )
        return ProducedResponse(partial(runner.run, run_request, prompt), _STREAM_HEADERS)

    models_json = _encode({"models": config.models, "count": len(config.models)})
    clis_json = _encode({"clis": config.clis, "count": len(config.clis)})

    @app.get("/models")
    async def models() -> Response:
        return Response(models_json, content_type="application/json")

    @app.get("/clis")
    async def clis() -> Response:
        return Response(clis_json, content_type="application/json")


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"
