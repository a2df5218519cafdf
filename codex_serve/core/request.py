"""What a client may ask for, and the strict reading of it.

The rule this file guards: whatever bytes come, the result is a ``RunRequest``
that can be executed as it stands, or an ``ApiError`` with a 4xx status. And
nobody waits for it: what no process can be given is refused before anything
goes through it, and the rest takes time and memory by what a process can have.
"""

import re
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from codex_serve.core.errors import ApiError
from codex_serve.core.json_text import Prompt, find_invalid_utf8, measure_strings, pieces

MAX_STRING_BYTES = 131_071
"""The most that Linux lets an argument, or ``NAME=VALUE``, have (``MAX_ARG_STRLEN``)."""

MAX_TOGETHER_BYTES = 2_097_152
"""The most that arguments and environment may take together, ``STRING_BYTES`` for each
included: what Linux allows where the stack may grow to 8 MiB, the usual limit."""

STRING_BYTES = 9
"""What a string takes beside its bytes: a pointer, and a byte for its end."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


class RunRequest(msgspec.Struct, frozen=True):
    """One ``POST /run``, without its prompt.

    No string holds a NUL character, and the names in ``env`` are names that a
    process environment can hold. Together they are not too long for a process.
    """

    cli: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}


_MISSING = msgspec.Raw(b"")
_NULL = msgspec.Raw(b"null")


class _Fields(msgspec.Struct):
    """The fields where they are in the body: found, their syntax checked, and not read.

    ``null`` stands for what is missing, too.
    """

    cli: msgspec.Raw = _MISSING
    args: msgspec.Raw = _NULL
    stdin: msgspec.Raw = _NULL
    env: msgspec.Raw = _NULL


_fields_decoder = msgspec.json.Decoder(_Fields)
_syntax_decoder = msgspec.json.Decoder(msgspec.Raw)
_string_decoder = msgspec.json.Decoder(str)
_args_decoder = msgspec.json.Decoder(tuple[str, ...])
_env_decoder = msgspec.json.Decoder(dict[str, str])

_MISFIT = re.compile(r"(?:got `(?P<kind>\w+)`)?(?: - at `\$\[(?P<index>.+)\]`)?$")
"""Finds what counts in "Expected `str`, got `int` - at `$[3]`"; a number that is
out of range is not told by its kind."""

_HALF_A_PAIR = r"an escape from \ud800 to \udfff without its other half"
_HALF_AT_END = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB]..[^\\]")
"""Where msgspec calls it cut short, because the other half would not fit in."""

_KINDS = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def decode_run_request(body: bytes | bytearray) -> tuple[RunRequest, Prompt]:
    """Read the body of ``POST /run``.

    Returns:
      The request, and its prompt, which holds ``body`` until it is closed or used up.

    Raises:
      ApiError: 400 ``malformed_json`` when it is not UTF-8 JSON, 422
        ``invalid_request`` when it is JSON of another shape, or with what no
        process can be given.
    """
    text = memoryview(body)
    fields = _find_fields(text[3:] if body.startswith(_BYTE_ORDER_MARK) else text)
    # msgspec skips over what it only has to find without looking at its encoding.
    if not body.isascii():
        index = find_invalid_utf8(text)
        if index is not None:
            raise _malformed(f"invalid UTF-8 at byte {index}")
    cli, args, env = fields.cli, fields.args, fields.env
    if cli is _MISSING:
        raise _invalid("'cli' is missing")
    if len(body) > MAX_TOGETHER_BYTES // 3:  # or else there is room, even if it is all "",
        _check_room(memoryview(cli), memoryview(args), memoryview(env))
    request = RunRequest(
        _read(_string_decoder, cli, "'cli'", "a string"),
        () if args == _NULL else _read(_args_decoder, args, "'args'", "a list of strings"),
        {} if env == _NULL else _read(_env_decoder, env, "'env'", "an object of strings"),
    )
    _check(request)
    if fields.stdin == _NULL:
        return request, Prompt(memoryview(b'""'))
    stdin = memoryview(fields.stdin)
    if stdin[0] != ord('"'):
        _read(_string_decoder, fields.stdin, "'stdin'", "a string")  # says what it is
    return request, Prompt(stdin)


def _find_fields(text: memoryview) -> _Fields:
    try:
        return _fields_decoder.decode(text)
    except msgspec.ValidationError as error:
        # The typed decoder has not seen whether the rest is JSON at all.
        _check_syntax(text)
        raise _misfit("it", "an object", error) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _syntax_error(text, error) from None


def _check_syntax(text: memoryview) -> None:
    try:
        _syntax_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _syntax_error(text, error) from None


def _syntax_error(text: memoryview, error: Exception) -> ApiError:
    """Say what is wrong with ``text`` in words that do not quote it."""
    reason = str(error).removeprefix("JSON is malformed: ")
    if isinstance(error, RecursionError):
        reason = "nested too deeply"
    elif all(piece.isspace() for piece in pieces(text)):
        reason = "it is empty"
    elif "truncated" in reason:
        reason = "it is cut short"
        if _HALF_AT_END.search(text[-12:]):
            reason = _HALF_A_PAIR
    elif "surrogate" in reason or "end of hex escape" in reason:
        reason = _HALF_A_PAIR
    return _malformed(reason)


def _malformed(reason: str) -> ApiError:
    return ApiError(400, "malformed_json", f"The request body must be JSON in UTF-8: {reason}.")


def _read(decoder: msgspec.json.Decoder[T], text: msgspec.Raw, name: str, wanted: str) -> T:
    """Decode a field, whose syntax is known to be right."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _misfit(name, wanted, error) from None


def _misfit(name: str, wanted: str, error: msgspec.ValidationError) -> ApiError:
    """Say in other words what msgspec says; ``name`` and ``wanted`` are of the whole field."""
    found = _MISFIT.search(str(error))
    assert found is not None  # it matches the end of any text
    if found["index"] is not None:
        wanted = "a string"
        name = f"args[{found['index']}]" if found["index"].isdigit() else f"each value in {name}"
    return _invalid(f"{name} must be {wanted}, not {_KINDS.get(found['kind'], 'a number')}")


def _check_room(cli: memoryview, args: memoryview, env: memoryview) -> None:
    """Refuse what is too much before it is decoded, by the number of strings and their length.

    Blanks between the strings may be as long as what a process can take; then
    the decoded strings are not longer than twice that.
    """
    most = MAX_TOGETHER_BYTES
    count, size = measure_strings(args, 2 * most)
    names_and_values, size_of_env = measure_strings(env, 2 * most)
    overhead = STRING_BYTES * count + (STRING_BYTES + 1) * names_and_values // 2
    if overhead > most or size + size_of_env > 2 * most or len(cli) > most:
        raise _too_much()


def _check(request: RunRequest) -> None:
    """Refuse what JSON can say and a process cannot be given."""
    args, env = request.args, request.env
    if not request.cli:
        raise _invalid("'cli' must name a command, not be empty")
    names = "".join(env)
    if "" in env or "=" in names or "\0" in names:
        raise _invalid("a name in 'env' must not be empty or hold '=' or a NUL character")
    everything = "".join((request.cli, *args, names, *env.values()))
    size = len(everything.encode()) + STRING_BYTES * (len(args) + len(env)) + len(env)
    if size > MAX_TOGETHER_BYTES:
        raise _too_much()
    if size > MAX_STRING_BYTES:
        _check_each(request)
    if "\0" in everything:
        place = next(place for place, string in _strings(request) if "\0" in string)
        raise _invalid(f"{place} must not hold a NUL character")


def _check_each(request: RunRequest) -> None:
    # A character has at most four bytes.
    for place, string in _strings(request, at_least=MAX_STRING_BYTES // 4):
        if len(string.encode()) > MAX_STRING_BYTES:
            raise _invalid(
                f"{place} must not be longer than {MAX_STRING_BYTES} bytes: "
                "no process can be given more"
            )


def _strings(request: RunRequest, at_least: int = 0) -> Iterator[tuple[str, str]]:
    """Yield what is given to a process and has so many characters, and the place of each."""
    if len(request.cli) >= at_least:
        yield "'cli'", request.cli
    for index, arg in enumerate(request.args):
        if len(arg) >= at_least:
            yield f"args[{index}]", arg
    for name, value in request.env.items():
        if len(name) + len(value) + 1 >= at_least:
            yield f"env[{name[:64]!r}]", f"{name}={value}"


def _too_much() -> ApiError:
    return _invalid(
        f"'args' and 'env' must not take more than {MAX_TOGETHER_BYTES} bytes together, with "
        f"{STRING_BYTES} more for each string: no process can be given more"
    )


def _invalid(reason: str) -> ApiError:
    return ApiError(422, "invalid_request", f"The request body does not fit: {reason}.")
