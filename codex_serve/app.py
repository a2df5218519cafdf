"""The routes, and every refusal as the one JSON line that clients can show."""

import logging
from collections.abc import Awaitable, Callable

import msgspec
from quart import Request, Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, MapAdapter, Rule

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

View = Callable[[Request], Awaitable[Response]]


class _App(QuartTrio):
    """Quart's requests, responses and errors, and no more of Quart.

    Its contexts, sessions, signals and hooks, which nothing here needs, take
    a sixth of ``GET /models``. So a view is a rule's endpoint, and gets the
    request as its argument.
    """

    def __init__(self, config: Config) -> None:
        super().__init__("codex_serve", static_folder=None)
        self.asgi_http_class = Exchange
        self.request_class = PullingRequest
        self.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
        self.config["BODY_TIMEOUT"] = config.body_timeout_s
        # Merging answers with redirects, which the plugin cannot follow.
        self.url_map = Map(merge_slashes=False)

    async def handle_request(self, request: Request) -> Response:
        """Answer with what the request's view returns, or with what is wrong."""
        routes = MapAdapter(
            self.url_map,
            server_name="",
            script_name="/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path,
            default_method=request.method,
        )
        try:
            view: View
            view, _ = routes.match()
            return await view(request)
        except ApiError as error:
            return _error(error.status, error.code, error.detail)
        except HTTPException as error:
            return self._refuse(request, error)
        except Exception:
            logger.exception("the request failed")
            return _error(500, "internal_error", "The server failed; its log says more.")

    def _refuse(self, request: Request, error: HTTPException) -> Response:
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
                limit = self.config["MAX_CONTENT_LENGTH"]
                detail = f"The request body must not be larger than {limit} bytes."
                name = "request_too_large"
            case _:
                detail = error.description or error.name
        response = _error(status, name, detail)
        for header, value in error.get_headers():
            if header.lower() == "allow":
                response.headers[header] = value
        return response


def create_app(config: Config, runner: Runner) -> QuartTrio:
    """Return the application that answers for ``runner``."""

    async def run(request: Request) -> Response:
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

    async def models(_: Request) -> Response:
        return Response(models_json, content_type="application/json")

    async def clis(_: Request) -> Response:
        return Response(clis_json, content_type="application/json")

    app = _App(config)
    # //run, which a base URL that ends in a slash gives, arrives here as /run.
    app.url_map.add(Rule("/run", endpoint=run, methods=["POST"]))
    app.url_map.add(Rule("/models", endpoint=models, methods=["GET"]))
    app.url_map.add(Rule("/clis", endpoint=clis, methods=["GET"]))
    return app


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _error(status: int, code: str, detail: str) -> Response:
    return Response(encode_error(code, detail), status, content_type="application/json")
