"""Any bytes become a request that can be executed, or one of our refusals."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codex_serve.errors import ApiError
from codex_serve.model import RunRequest, decode_run_request


def refusal(body: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decode_run_request(body)
    return caught.value


def test_all_fields() -> None:
    body = b'{"cli": "codex", "args": ["--model", "gpt-4"], "stdin": "Hi", "env": {"K": "V"}}'
    assert decode_run_request(body) == RunRequest("codex", ("--model", "gpt-4"), "Hi", {"K": "V"})


def test_only_cli_is_needed_and_unknown_fields_are_ignored() -> None:
    assert decode_run_request(b'{"cli": "codex", "x": {"y": [1, null]}}') == RunRequest("codex")


MALFORMED = {
    "empty": b"",
    "cut short": b'{"cli": "codex"',
    "wrong type before a syntax error": b'{"cli": 1',
    "trailing characters": b'{"cli": "codex"} x',
    "invalid UTF-8": b'{"cli": "\xff"}',
    "invalid UTF-8 in an unknown field": b'{"cli": "codex", "x": "\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"cli": "codex"}',
    "UTF-16": '{"cli": "codex"}'.encode("utf-16"),
    "NaN": b'{"cli": "codex", "x": NaN}',
    "NaN where a string is wanted": b'{"cli": NaN}',
    "a lone surrogate": b'{"cli": "\\ud800"}',
    "nested brackets": b"[" * 100_000,
    "nested brackets that close": b"[" * 100_000 + b"]" * 100_000,
    "nested brackets in an unknown field": b'{"cli": "codex", "x": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_json_is_400(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (400, "malformed_json")


WRONG_SHAPE = {
    "an array": b"[]",
    "a string": b'"codex"',
    "no cli": b"{}",
    "an empty cli": b'{"cli": ""}',
    "a number as cli": b'{"cli": 1}',
    "a string as args": b'{"cli": "codex", "args": "x"}',
    "a number in args": b'{"cli": "codex", "args": [1]}',
    "a null as stdin": b'{"cli": "codex", "stdin": null}',
    "a list as env": b'{"cli": "codex", "env": []}',
    "a number in env": b'{"cli": "codex", "env": {"K": 1}}',
    "NUL in cli": b'{"cli": "co\\u0000dex"}',
    "NUL in args": b'{"cli": "codex", "args": ["a", "\\u0000"]}',
    "NUL in stdin": b'{"cli": "codex", "stdin": "a\\u0000"}',
    "NUL in a variable": b'{"cli": "codex", "env": {"K": "\\u0000"}}',
    "NUL in a variable's name": b'{"cli": "codex", "env": {"K\\u0000": "V"}}',
    "an empty variable name": b'{"cli": "codex", "env": {"": "V"}}',
    "a variable name with =": b'{"cli": "codex", "env": {"A=B": "V"}}',
}


@pytest.mark.parametrize("body", WRONG_SHAPE.values(), ids=WRONG_SHAPE.keys())
def test_wrong_shape_is_422(body: bytes) -> None:
    error = refusal(body)
    assert (error.status, error.code) == (422, "invalid_request")


def test_the_refusal_names_the_place_and_not_the_value() -> None:
    error = refusal(b'{"cli": "codex", "env": {"TOKEN": "secret\\u0000"}}')
    assert "env['TOKEN']" in error.detail
    assert "secret" not in error.detail


@given(st.binary())
@example(b"\xff")
def test_any_bytes_give_a_request_or_our_error(body: bytes) -> None:
    try:
        request = decode_run_request(body)
    except ApiError as error:
        assert error.status in (400, 422)
    else:
        assert request.cli
