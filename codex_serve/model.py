"""What a client may ask for, and the strict reading of it.

The rule this file guards: whatever bytes come, the result is a ``RunRequest``
that can be executed as it stands, or an ``ApiError`` with a 4xx status.
"""

import msgspec

from codex_serve.errors import ApiError


class RunRequest(msgspec.Struct, frozen=True):
    """One ``POST /run``.

    No string holds a NUL character, and the names in ``env`` are names that a
    process environment can hold.
    """

    cli: str
    args: tuple[str, ...] = ()
    stdin: str = ""
    env: dict[str, str] = {}


_decoder = msgspec.json.Decoder(RunRequest)
_syntax_decoder = msgspec.json.Decoder(msgspec.Raw)


def decode_run_request(body: bytes) -> RunRequest:
    """Read the body of ``POST /run``.

    Raises:
      ApiError: 400 ``malformed_json`` when it is not UTF-8 JSON, 422
        ``invalid_request`` when it is JSON of another shape.
    """
    try:
        # msgspec skips over unknown fields without looking at their encoding.
        text = body.decode("utf-8")
        request = _decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _wrong_shape_or_malformed(body, error) from None
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as error:
        raise _malformed(error) from None
    _check(request)
    return request


def _wrong_shape_or_malformed(body: bytes, error: msgspec.ValidationError) -> ApiError:
    """Tell the two apart.

    The typed decoder stops at the first wrong type it meets, before it has
    seen whether the rest is JSON at all.
    """
    try:
        _syntax_decoder.decode(body)
    except (msgspec.DecodeError, RecursionError) as syntax_error:
        return _malformed(syntax_error)
    return ApiError(422, "invalid_request", f"The request body does not fit: {error}.")


def _malformed(error: Exception) -> ApiError:
    match error:
        case UnicodeDecodeError():
            reason = f"invalid UTF-8 at byte {error.start}"
        case RecursionError():
            reason = "nested too deeply"
        case _:
            reason = str(error).removeprefix("JSON is malformed: ")
    return ApiError(400, "malformed_json", f"The request body must be JSON in UTF-8: {reason}.")


def _check(request: RunRequest) -> None:
    """Refuse what JSON can say and a process cannot be given."""
    if not request.cli:
        raise _invalid("'cli' must name a command, not be empty")
    strings = {"cli": request.cli, "stdin": request.stdin}
    strings |= {f"args[{index}]": arg for index, arg in enumerate(request.args)}
    for name, value in request.env.items():
        if not name or "=" in name or "\0" in name:
            raise _invalid("a name in 'env' must not be empty or hold '=' or a NUL character")
        strings[f"env[{name[:64]!r}]"] = value
    for where, value in strings.items():
        if "\0" in value:
            raise _invalid(f"{where} must not hold a NUL character")


def _invalid(reason: str) -> ApiError:
    return ApiError(422, "invalid_request", f"The request body does not fit: {reason}.")
