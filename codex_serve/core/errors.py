"""Our exceptions, split by whose fault they are.

Each says in one sentence what was wanted, what came and what to do, because
that sentence is what the person who caused it gets to read.
"""

SERVER_FAILED = 125
"""The exit code when the server cannot tell the command's own: the number that
``docker run``, ``env`` and ``timeout`` give for a failure of their own."""


class ConfigError(Exception):
    """The operator's: a setting that cannot work. The server does not start."""


class ApiError(Exception):
    """The client's: a request that is refused before anything is started.

    Attributes:
      status: the HTTP status, 4xx or 503.
      code: a stable snake_case word for programs.
      detail: the sentence for people.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail


class LaunchError(Exception):
    """The command did not start; nothing is left behind.

    Attributes:
      exit_code: 127 when it was not found, 126 when it cannot be executed, 125
        when the server is to blame.
      reason: the sentence for the stream.
    """

    def __init__(self, exit_code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = exit_code
        self.reason = reason


class ChildLostError(Exception):
    """Whoever watched the command is gone, so its exit status is not known."""
