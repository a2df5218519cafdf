"""Any bytes become a request that can be executed, or one of our refusals."""

import json
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bodies import HUGE, MAX_BODY_BYTES, fill
from codex_serve.core.errors import ApiError
from codex_serve.core.request import (
    MAX_STRING_BYTES,
    MAX_TOGETHER_BYTES,
    STRING_BYTES,
    RunRequest,
    decode_run_request,
)


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode_run_request(body)
    return caught.value


def accepted(**fields: object) -> RunRequest:
    return decode_run_request(json.dumps({"cli": "codex", **fields}).encode())[0]


def test_all_fields() -> None:
    body = b'{"cli": "codex", "args": ["--model", "gpt-4"], "stdin": "Hi", "env": {"K": "V"}}'
    request, prompt = decode_run_request(body)
    assert request == RunRequest("codex", ("--model", "gpt-4"), {"K": "V"})
    assert bytes(prompt.piece) == b"Hi"


@pytest.mark.parametrize(
    "rest",
    [
        b"}",
        b', "x": {"y": [1, null]}}',
        b', "args": null, "stdin": null, "env": null}',
        b' , "args" : [ ] , "stdin" : "" , "env" : { } } \n',
    ],
    ids=["only cli", "an unknown field", "null", "nothing in them"],
)
def test_only_cli_is_needed(rest: bytes) -> None:
    request, prompt = decode_run_request(b'{"cli": "codex"' + rest)
    assert request == RunRequest("codex")
    assert not prompt


def test_a_byte_order_mark_is_skipped() -> None:
    request, prompt = decode_run_request(b'\xef\xbb\xbf{"cli": "codex", "stdin": "\xef\xbb\xbf"}')
    assert request.cli == "codex"
    assert bytes(prompt.piece) == b"\xef\xbb\xbf"  # there it may mean something


def test_a_pipe_carries_nul() -> None:
    _, prompt = decode_run_request(b'{"cli": "codex", "stdin": "a\\u0000b"}')
    assert bytes(prompt.piece) == b"a\0b"


HALF = r"an escape from \ud800 to \udfff without its other half"

MALFORMED = {
    "empty": (b"", "it is empty"),
    "blank": (b" \r\n" * 100_000, "it is empty"),
    "only a byte order mark": (b"\xef\xbb\xbf", "it is empty"),
    "cut short": (b'{"cli": "codex"', "it is cut short"),
    "cut in a string": (b'{"cli": "codex\\ud800', "it is cut short"),
    "cut behind what looks like a surrogate": (b'{"cli": "\\\\ud800xx', "it is cut short"),
    "wrong type before a syntax error": (b'{"cli": 1', "it is cut short"),
    "wrong type of all before a syntax error": (b"[1", "it is cut short"),
    "trailing characters": (b'{"cli": "codex"} x', "trailing characters (byte 18)"),
    "invalid UTF-8": (b'{"cli": "\xff"}', "invalid UTF-8 at byte 9"),
    "invalid UTF-8 in the prompt": (
        b'{"cli": "codex", "stdin": "\xff"}',
        "invalid UTF-8 at byte 27",
    ),
    "invalid UTF-8 in an unknown field": (
        b'{"cli": "codex", "x": "\xff"}',
        "invalid UTF-8 at byte 23",
    ),
    "an encoded surrogate": (b'{"cli": "\xed\xa0\x80"}', "invalid UTF-8 at byte 9"),
    "UTF-16": ('{"cli": "codex"}'.encode("utf-16"), "invalid character (byte 0)"),
    "NaN": (b'{"cli": "codex", "x": NaN}', "invalid character (byte 22)"),
    "NaN where a string is wanted": (b'{"cli": NaN}', "invalid character (byte 8)"),
    "a lone first half": (b'{"cli": "\\ud800"}', HALF),
    "a lone first half in the prompt": (b'{"cli": "codex", "stdin": "\\uDBFF and more"}', HALF),
    "a lone second half": (b'{"cli": "\\udc00"}', HALF),
    "two first halves": (b'{"cli": "\\ud800\\ud800"}', HALF),
    "half a pair in an unknown field": (b'{"cli": "codex", "\\ud800": 1}', HALF),
    "nested brackets": (b"[" * 100_000, "nested too deeply"),
    "nested brackets that close": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
    "nested brackets in an unknown field": (
        b'{"cli": "codex", "x": ' + b"[" * 100_000,
        "nested too deeply",
    ),
}


@pytest.mark.parametrize(("body", "reason"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_json_is_400(body: bytes, reason: str) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (400, "malformed_json")
    assert error.detail == f"The request body must be JSON in UTF-8: {reason}."


NO_NAME = "a name in 'env' must not be empty or hold '=' or a NUL character"

WRONG_SHAPE = {
    "an array": (b"[]", "it must be an object, not a list"),
    "a string": (b' "codex"', "it must be an object, not a string"),
    "null": (b"null", "it must be an object, not null"),
    "no cli": (b"{}", "'cli' is missing"),
    "an empty cli": (b'{"cli": ""}', "'cli' must name a command, not be empty"),
    "a null as cli": (b'{"cli": null}', "'cli' must be a string, not null"),
    "a number as cli": (b'{"cli": 1.5}', "'cli' must be a string, not a number"),
    "a string as args": (
        b'{"cli": "codex", "args": "x"}',
        "'args' must be a list of strings, not a string",
    ),
    "a number in args": (
        b'{"cli": "codex", "args": ["a", "b", "c", 1]}',
        "args[3] must be a string, not a number",
    ),
    "an endless number in args": (
        b'{"cli": "codex", "args": [1e999]}',
        "args[0] must be a string, not a number",
    ),
    "a null in args": (b'{"cli": "codex", "args": [null]}', "args[0] must be a string, not null"),
    "a list in args": (b'{"cli": "codex", "args": [[1]]}', "args[0] must be a string, not a list"),
    "true as stdin": (
        b'{"cli": "codex", "stdin": true}',
        "'stdin' must be a string, not true or false",
    ),
    "an object as stdin": (
        b'{"cli": "codex", "stdin": {"a": "b"}}',
        "'stdin' must be a string, not an object",
    ),
    "a list as env": (
        b'{"cli": "codex", "env": []}',
        "'env' must be an object of strings, not a list",
    ),
    "a number in env": (
        b'{"cli": "codex", "env": {"K": 1}}',
        "each value in 'env' must be a string, not a number",
    ),
    "NUL in cli": (b'{"cli": "co\\u0000dex"}', "'cli' must not hold a NUL character"),
    "NUL in args": (
        b'{"cli": "codex", "args": ["a", "\\u0000"]}',
        "args[1] must not hold a NUL character",
    ),
    "NUL in a variable": (
        b'{"cli": "codex", "env": {"K": "secret\\u0000"}}',
        "env['K'] must not hold a NUL character",
    ),
    "NUL in a variable's name": (b'{"cli": "codex", "env": {"K\\u0000": "V"}}', NO_NAME),
    "an empty variable name": (b'{"cli": "codex", "env": {"": "V"}}', NO_NAME),
    "a variable name with =": (b'{"cli": "codex", "env": {"A=B": "V"}}', NO_NAME),
}


@pytest.mark.parametrize(("body", "reason"), WRONG_SHAPE.values(), ids=WRONG_SHAPE.keys())
def test_wrong_shape_is_422_in_words_that_do_not_quote_values(body: bytes, reason: str) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (422, "invalid_request")
    assert error.detail == f"The request body does not fit: {reason}."


TOGETHER = f"'args' and 'env' must not take more than {MAX_TOGETHER_BYTES} bytes together"
TOO_LONG = f"must not be longer than {MAX_STRING_BYTES} bytes"


@pytest.mark.parametrize("body", HUGE.values(), ids=HUGE.keys())
def test_what_no_process_can_take_is_refused_before_it_is_decoded(body: bytes) -> None:
    assert len(body) <= MAX_BODY_BYTES
    tracemalloc.start()
    try:
        error = refusal(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (error.status, error.code) == (422, "invalid_request")
    assert TOGETHER in error.detail
    assert peak < 3_000_000


def test_no_string_may_be_longer_than_a_process_can_take() -> None:
    value = "ä" * (MAX_STRING_BYTES // 2) + "x"
    assert accepted(args=[value]).args == (value,)
    assert TOO_LONG in refusal(json.dumps({"cli": "c", "args": ["a", value + "x"]}).encode()).detail
    assert accepted(env={"VALUE": value[3:], "ä": value[2:]}).env["VALUE"] == value[3:]
    error = refusal(json.dumps({"cli": "c", "env": {"A": "", "VALUE": value[3:] + "x"}}).encode())
    assert f"env['VALUE'] {TOO_LONG}" in error.detail


@pytest.mark.parametrize("escape", [True, False])
@pytest.mark.parametrize("character", ["x", "ä", "€", "😀", "\x01", '"', "\\"])
def test_all_that_a_process_can_take_together_is_taken(character: str, escape: bool) -> None:
    size = len(character.encode())
    of_args, of_env = ["a"] * 16, {"A": "b"}
    room = MAX_TOGETHER_BYTES - len("cli") - 16 * (STRING_BYTES + 1) - (STRING_BYTES + 3)
    for index in range(15):
        of_args[index] = character * (MAX_STRING_BYTES // size)
        room -= len(of_args[index].encode()) - 1
    of_env["A"] += "v" * room
    body = {"cli": "cli", "args": of_args, "env": of_env}
    request, _ = decode_run_request(json.dumps(body, ensure_ascii=escape, indent=2).encode())
    assert (request.args, request.env) == (tuple(of_args), of_env)
    of_env["A"] += "v"
    assert TOGETHER in refusal(json.dumps(body, ensure_ascii=escape).encode()).detail


@pytest.mark.parametrize("blank", [b"", b" "])
def test_as_many_as_a_process_can_take_are_taken(blank: bytes) -> None:
    most = (MAX_TOGETHER_BYTES - 1) // STRING_BYTES
    for count, fits in ((most, True), (most + 1, False)):
        body = b'{"cli":"c","args":[%b]}' % (b"," + blank).join([b'""'] * count)
        if fits:
            request, _ = decode_run_request(body)
            assert request.args == ("",) * count
        else:
            assert TOGETHER in refusal(body).detail


def test_what_is_between_strings_hides_nothing() -> None:
    body = b'{"cli":"codex","args":["x"%b]}' % (b" " * 2 * MAX_TOGETHER_BYTES)
    assert TOGETHER in refusal(body).detail


def test_a_long_prompt_is_held_once(monkeypatch: pytest.MonkeyPatch) -> None:
    body = bytearray(fill(('{"cli":"codex","stdin":"😀'.encode(), b"\\n" + b"x" * 60, b'"}')))
    tracemalloc.start()
    try:
        _, prompt = decode_run_request(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert prompt
    assert peak < 3_000_000


@given(st.binary() | st.text('[]{}":,\\ud8e1 \n\0', max_size=30).map(str.encode))
@example(b"\xff")
def test_any_bytes_give_a_request_or_our_error(body: bytes) -> None:
    try:
        request, _ = decode_run_request(body)
    except ApiError as error:
        assert error.status in (400, 422)
    else:
        assert request.cli
