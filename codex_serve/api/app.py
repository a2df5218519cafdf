"""The application: its routes, and every refusal as the one JSON line that clients can show."""

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import MethodNotAllowed, NotFound

from codex_serve.api.runs import add_run_routes
from codex_serve.api.streaming import OneTaskConnection, PulledRequest, refuse
from codex_serve.core.config import Config
from codex_serve.core.errors import ApiError
from codex_serve.runs.run import Runner


class _App(QuartTrio):
    """Quart, with requests that are answered in one task."""

    asgi_http_class = OneTaskConnection
    request_class = PulledRequest


def create_app(config: Config, runner: Runner) -> QuartTrio:
    """Return the application that answers for ``runner``."""
    app = _App("codex_serve", static_folder=None)
    # /run/, and //run, which a base URL that ends in a slash gives, are /run: by a match and
    # not by a redirect, which the plugin cannot follow.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    # What nobody expects is answered by http1, whether it is raised here or elsewhere.
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    add_run_routes(app, config, runner)
    app.register_error_handler(ApiError, _refuse)
    app.register_error_handler(NotFound, _not_found)
    app.register_error_handler(MethodNotAllowed, _method_not_allowed)
    return app


async def _refuse(error: ApiError) -> Response:
    return refuse(error)


async def _not_found(_: NotFound) -> Response:
    detail = f"There is no {request.path[:64]!r} here: use /run, /models or /clis."
    return refuse(ApiError(404, "not_found", detail))


async def _method_not_allowed(error: MethodNotAllowed) -> Response:
    allowed = ", ".join(sorted(error.valid_methods or ()))
    detail = f"{request.path} takes {allowed}, not {request.method[:32]}."
    response = refuse(ApiError(405, "method_not_allowed", detail))
    response.headers["Allow"] = allowed
    return response
