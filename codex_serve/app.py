"""The routes, and every refusal as the one JSON line that clients can show."""

import logging

import msgspec
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from codex_serve.config import Config
from codex_serve.errors import ApiError
from codex_serve.events import encode_error
from codex_serve.model import decode_run_request
from codex_serve.run import Runner
from codex_serve.streaming import Exchange, ProducedResponse, PullingRequest

logger = logging.getLogger(__name__)

_STREAM_HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx holds a stream back until a buffer is full, else
}


def create_app(config: Config, runner: Runner) -> QuartTrio:
    """Return the application that answers for ``runner``."""
    app = QuartTrio("codex_serve", static_folder=None)
    app.asgi_http_class = Exchange
    app.request_class = PullingRequest
    app.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
    app.config["BODY_TIMEOUT"] = config.body_timeout_s
    app.url_map.merge_slashes = False  # it answers with redirects, which the plugin cannot follow

    async def run() -> Response:
        if request.mimetype != "application/json":
            # Any web page may send the other types here from a visitor's browser.
            raise ApiError(
                415,
                "unsupported_media_type",
                "The request must have the header 'Content-Type: application/json'.",
            )
        body = await request.get_data(cache=False, as_text=False, parse_form_data=False)
        run_request = decode_run_request(body)
        if run_request.cli not in config.clis:
            known = ", ".join(config.clis)
            raise ApiError(
                400, "unknown_cli", f"'cli' must be one of {known}; not {run_request.cli[:64]!r}."
            )
        return ProducedResponse(
            runner.prepare(run_request),
            content_type="application/x-ndjson",
            headers=_STREAM_HEADERS,
        )

    models_json = _encode({"models": config.models, "count": len(config.models)})
    clis_json = _encode({"clis": config.clis, "count": len(config.clis)})

    async def models() -> Response:
        return Response(models_json, content_type="application/json")

    async def clis() -> Response:
        return Response(clis_json, content_type="application/json")

    # //run, which a base URL that ends in a slash gives, arrives here as /run.
    app.add_url_rule("/run", "run", run, methods=["POST"])
    app.add_url_rule("/models", "models", models)
    app.add_url_rule("/clis", "clis", clis)

    app.register_error_handler(ApiError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(Exception, _fail)
    return app


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _error(status: int, code: str, detail: str) -> Response:
    return Response(encode_error(code, detail), status, content_type="application/json")


async def _refuse(error: ApiError) -> Response:
    return _error(error.status, error.code, error.detail)


async def _refuse_http(error: HTTPException) -> Response:
    """Say what Quart and Werkzeug refuse in our form, keeping their headers."""
    status = error.code or 500
    name = error.name.lower().replace(" ", "_")
    match status:
        case 404:
            detail = f"There is no {request.path[:64]!r} here: use /run, /models or /clis."
        case 405:
            allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
            detail = f"{request.path} takes {allowed}, not {request.method[:32]}."
        case 408:
            detail = f"The request body did not arrive within {request.body_timeout:g} s."
        case 413:
            limit = request.max_content_length
            detail = f"The request body must not be larger than {limit} bytes."
            name = "request_too_large"
        case _:
            detail = error.description or error.name
    response = _error(status, name, detail)
    for header, value in error.get_headers():
        if header.lower() == "allow":
            response.headers[header] = value
    return response


async def _fail(error: Exception) -> Response:
    logger.error("the request failed", exc_info=error)
    return _error(500, "internal_error", "The server failed; its log says more.")
