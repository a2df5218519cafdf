"""The command line: environment and options become a ``Config``, then ``trio.run``."""

import os
import sys

import click
import trio

from codex_serve import __version__
from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError
from codex_serve.logs import configure_logging
from codex_serve.processes import linux
from codex_serve.service import serve

CANNOT_WORK = 2
"""The exit status for a configuration that cannot work."""

INTERRUPTED = 130
"""The exit status after a Ctrl-C that came too early or too late to be obeyed."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", metavar="HOST", help="Address to listen on; comes before $HOST.")
@click.option("--port", metavar="PORT", help="Port to listen on; comes before $PORT.")
@click.option("--demo", is_flag=True, help="Serve the bundled command 'demo', which needs no AI.")
@click.version_option(__version__, prog_name="codex-serve")
def main(host: str | None, port: str | None, demo: bool) -> None:
    """Run AI command-line tools on request and stream what they say.

    Everything else is set by environment variables; docs/configuration.md
    lists them.
    """
    error: BaseException | None = None
    try:
        config = Config.from_environ(os.environ, host=host, port=port, demo=demo)
        configure_logging(config.log_level)
        if config.token or config.token_file:
            # Commands run as the same user and are not to learn it: from here on nothing
            # that is started has it, and nobody can look into this process.
            os.environ.pop("CODEX_SERVE_TOKEN", None)
            linux.hide()
        trio.run(serve, config)
    except* ConfigError as group:
        error = group
    except* KeyboardInterrupt:
        sys.exit(INTERRUPTED)  # click would say "Aborted!"
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is not None:
        click.echo(f"codex-serve: {error}", err=True)
        sys.exit(CANNOT_WORK)
