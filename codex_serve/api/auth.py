"""Who may use the server: those who know a token, where tokens are set.

A token comes as ``Authorization: Bearer TOKEN`` or, for clients that can send
no header, as a prefix of the path: ``/t/TOKEN/run``. The rule this file guards:
a token is compared in constant time and goes no further than this file.
"""

import hmac
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope

from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError
from codex_serve.core.events import encode_error

_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")
_PATH = re.compile(r"/+t/([^/]+)(/.*)", re.DOTALL)


def load_tokens(config: Config) -> frozenset[str]:
    """Return the tokens that the settings name; none means that everybody may.

    ``CODEX_SERVE_TOKEN`` holds some, separated by blanks; the file has one a
    line, and lines that start with ``#`` are comments.

    Raises:
      ConfigError: the file cannot be read, or something in it is no token.
    """
    tokens = config.token.split()
    if config.token_file:
        try:
            text = Path(config.token_file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(
                f"CODEX_SERVE_TOKEN_FILE must be a readable file, not {config.token_file}: {reason}"
            ) from error
        lines = (line.strip() for line in text.splitlines())
        tokens += [line for line in lines if line and not line.startswith("#")]
        if not tokens:
            raise ConfigError(
                f"CODEX_SERVE_TOKEN_FILE must hold a token; {config.token_file} is empty"
            )
    if not all(map(_TOKEN.fullmatch, tokens)):
        raise ConfigError(
            "A token must be at least 16 characters, each a letter, a digit or one of . _ ~ -; "
            "`openssl rand -hex 16` makes one"
        )
    return frozenset(tokens)


class TokenGate:
    """An ASGI application that lets requests with a token through to another."""

    def __init__(self, app: ASGIFramework, tokens: Collection[str]) -> None:
        self._app = app
        self._tokens = [token.encode() for token in tokens]

    def __repr__(self) -> str:
        return f"<TokenGate {len(self._tokens)} tokens>"

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer 401 ``unauthorized``, or pass the request on without its token."""
        assert scope["type"] == "http"
        header = dict(scope["headers"]).get(b"authorization")
        scheme, _, given = (header or b"").partition(b" ")
        is_bearer = scheme.lower() == b"bearer" and given.strip() != b""
        if is_bearer and self._knows(given.strip()):
            await self._app(scope, receive, send)
            return
        found = _PATH.fullmatch(scope["path"])
        if found is not None and self._knows(found[1].encode()):
            inner: Any = {**scope, "path": found[2], "raw_path": found[2].encode()}
            await self._app(inner, receive, send)
            return
        if is_bearer or found is not None:
            detail = "The token that was sent is none of this server's."
        elif header is not None:
            detail = "The header 'Authorization' must be 'Bearer TOKEN'."
        else:
            detail = (
                "A token is needed: send 'Authorization: Bearer TOKEN', "
                "or put /t/TOKEN in front of the path."
            )
        body = encode_error("unauthorized", detail)
        response_headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"www-authenticate", b"Bearer"),
        ]
        await send({"type": "http.response.start", "status": 401, "headers": response_headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    def _knows(self, given: bytes) -> bool:
        # All are compared, so that the time tells nothing about which came close.
        matches = [hmac.compare_digest(given, token) for token in self._tokens]
        return True in matches
