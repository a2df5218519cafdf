"""Local mode: the CLI's name is the command, looked up on ``PATH``."""

from collections.abc import Mapping

from codex_serve.launchers import Launch
from codex_serve.model import RunRequest


def launch_local(
    request: RunRequest,
    environ: Mapping[str, str],
    commands: Mapping[str, tuple[str, ...]],
) -> Launch:
    """Return the command for ``request``, never through a shell.

    Args:
      request: what the client asked for.
      environ: the server's environment; the request's ``env`` overlays it, and
        the resulting ``PATH`` is the one that finds the command.
      commands: CLIs that are not found by their name, such as the demo.
    """
    command = commands.get(request.cli, (request.cli,))
    return Launch(argv=(*command, *request.args), env={**environ, **request.env})
