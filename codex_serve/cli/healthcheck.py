"""``python -m codex_serve.cli.healthcheck`` tells whether the server of these settings is alive.

The rule this file guards: it says no only when the server does not serve. A
server that wants a token is alive when it asks for one, and a certificate is
for the clients to judge, so neither is needed here.
"""

import http.client
import os
import signal
import ssl
import sys
from types import FrameType

from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError

TIMEOUT_S = 5.0
"""How long the whole question may take, far above what a busy server needs."""

ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to ask, not to listen
"""Where a server is asked that listens on every address."""


def ask(config: Config) -> int:
    """Return the status with which the server answers ``GET /clis``.

    Raises:
      OSError, http.client.HTTPException: nobody answers, or not in HTTP.
    """
    host = ANY_ADDRESS.get(config.host, config.host)
    if config.tls_cert_file:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, config.port, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, config.port)
    try:
        connection.request("GET", "/clis")
        return connection.getresponse().status
    finally:
        connection.close()


def why_unhealthy() -> str | None:
    """Return what is wrong with the server in one sentence, ``None`` if it is alive."""
    try:
        status = ask(Config.from_environ(os.environ))
    except ConfigError as error:
        return str(error)
    except (OSError, http.client.HTTPException) as error:
        words = " ".join(str(error).split())  # what came instead of HTTP may have line ends
        return f"the server does not answer: {words or type(error).__name__}"
    return f"the server answers with status {status}" if status >= 500 else None


def _give_up(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"nothing came within {TIMEOUT_S:g} s")


def main() -> None:
    """Exit 0 if the server is alive, else 1 and one line on standard error."""
    # One limit for all of it: a socket's own would begin anew with every packet.
    signal.signal(signal.SIGALRM, _give_up)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S)
    reason = why_unhealthy()
    if reason is not None:
        sys.exit(f"codex-serve: {reason}")


if __name__ == "__main__":
    main()
