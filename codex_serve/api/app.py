"""The routes, and every refusal as the one JSON line that clients can show."""

import msgspec
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed, NotFound
from werkzeug.routing import Map, MapAdapter, Rule

from codex_serve.api.streaming import AnyResponse, Exchange, ProducedResponse, PulledRequest, View
from codex_serve.core.config import Config
from codex_serve.core.errors import ApiError
from codex_serve.core.events import encode_error
from codex_serve.core.request import decode_run_request
from codex_serve.runs.run import Runner

_STREAM_HEADERS = (
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx holds a stream back until a buffer is full, else
)


class _App(QuartTrio):
    """Quart's requests, responses and errors, and no more of Quart.

    Its contexts, sessions, signals and hooks, which nothing here needs, take
    a sixth of ``GET /models``. So a view is a rule's endpoint, and gets the
    request as its argument.
    """

    def __init__(self) -> None:
        super().__init__("codex_serve", static_folder=None)
        self.request_class = PulledRequest
        # Merging answers with redirects, which the plugin cannot follow.
        self.url_map = Map(merge_slashes=False)

    async def asgi_app(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Serve one request; see ``Exchange``."""
        assert scope["type"] == "http"
        await Exchange(self, scope).serve(self._answer, receive, send)

    async def _answer(self, request: PulledRequest) -> AnyResponse:
        """Answer with what the request's view returns, or with what is wrong with the request.

        What else is raised, here or while the answer is made, is answered by ``http1``.
        """
        routes = MapAdapter(
            self.url_map,
            server_name="",
            script_name="/",
            subdomain="",
            url_scheme=request.scheme,
            path_info=request.path.rstrip("/"),
            default_method=request.method,
        )
        try:
            view: View
            view, _ = routes.match()
            return await view(request)
        except NotFound:
            detail = f"There is no {request.path[:64]!r} here: use /run, /models or /clis."
            return _error(404, "not_found", detail)
        except MethodNotAllowed as error:
            allowed = ", ".join(sorted(error.valid_methods or ()))
            detail = f"{request.path} takes {allowed}, not {request.method[:32]}."
            response = _error(405, "method_not_allowed", detail)
            response.headers["Allow"] = allowed
            return response
        except ApiError as error:
            return _error(error.status, error.code, error.detail)


def create_app(config: Config, runner: Runner) -> QuartTrio:
    """Return the application that answers for ``runner``."""

    async def run(request: PulledRequest) -> ProducedResponse:
        if request.mimetype != "application/json":
            # Any web page may send the other types here from a visitor's browser.
            raise ApiError(
                415,
                "unsupported_media_type",
                "The request must have the header 'Content-Type: application/json'.",
            )
        run_request, prompt = decode_run_request(await request.read(config.max_request_bytes))
        if run_request.cli not in config.clis:
            known = ", ".join(config.clis)
            raise ApiError(
                400, "unknown_cli", f"'cli' must be one of {known}; not {run_request.cli[:64]!r}."
            )
        return ProducedResponse(_STREAM_HEADERS, runner.prepare(run_request, prompt))

    models_json = _encode({"models": config.models, "count": len(config.models)})
    clis_json = _encode({"clis": config.clis, "count": len(config.clis)})

    async def models(_: PulledRequest) -> Response:
        return Response(models_json, content_type="application/json")

    async def clis(_: PulledRequest) -> Response:
        return Response(clis_json, content_type="application/json")

    app = _App()
    # //run, which a base URL that ends in a slash gives, and /run/ arrive here as /run.
    app.url_map.add(Rule("/run", endpoint=run, methods=["POST"]))
    app.url_map.add(Rule("/models", endpoint=models, methods=["GET"]))
    app.url_map.add(Rule("/clis", endpoint=clis, methods=["GET"]))
    return app


def _encode(value: object) -> bytes:
    return msgspec.json.encode(value) + b"\n"


def _error(status: int, code: str, detail: str) -> Response:
    return Response(encode_error(code, detail), status, content_type="application/json")
