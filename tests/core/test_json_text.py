"""Long JSON, a piece at a time, is what the whole would be."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codex_serve.core import json_text
from codex_serve.core.json_text import Prompt, find_invalid_utf8, measure_strings

TEXTS = st.lists(
    st.sampled_from(["a", "ä", "€", "😀", "\n", "\0", '"', "\\", "\\\\", "\\u", "d83d", "/"])
    | st.text(max_size=3),
    max_size=40,
).map("".join)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """No text has to be long; a pair of escapes takes 12 bytes."""
    monkeypatch.setattr(json_text, "PIECE_BYTES", 13)


def take(prompt: Prompt, at_a_time: int = 1000) -> bytes:
    taken = b""
    while prompt:
        part = bytes(prompt.piece[:at_a_time])
        taken += part
        prompt.advance(len(part))
    return taken


@given(text=TEXTS, ascii_only=st.booleans(), at_a_time=st.integers(1, 20))
@example(text="\\" * 40, ascii_only=True, at_a_time=5)
@example(text="a" + "\\" * 40, ascii_only=True, at_a_time=5)
@example(text="😀" * 40, ascii_only=True, at_a_time=5)
@example(text="abcdefg" + "😀" * 40, ascii_only=True, at_a_time=5)
@example(text="a" + "😀" * 40, ascii_only=False, at_a_time=5)
@example(text="😀\n" * 40, ascii_only=False, at_a_time=5)
def test_a_prompt_is_what_the_json_says(text: str, ascii_only: bool, at_a_time: int) -> None:
    data = json.dumps(text, ensure_ascii=ascii_only).encode()
    assert take(Prompt(memoryview(data)), at_a_time) == text.encode()


@given(st.lists(TEXTS), st.booleans())
def test_strings_are_counted_and_their_length_is_a_lower_bound(
    texts: list[str], ascii_only: bool
) -> None:
    data = json.dumps(texts, ensure_ascii=ascii_only).encode()
    count, size = measure_strings(memoryview(data), len(data))
    assert count == len(texts)
    between = len(data) - len("".join(json.dumps(t, ensure_ascii=ascii_only)[1:-1] for t in texts))
    assert size - between <= len("".join(texts).encode())


def test_the_length_of_strings_without_escapes_is_exact() -> None:
    assert measure_strings(memoryview(b'["abc", "\\u0001", "\\\\", "\\""]'), 100) == (4, 29 - 5 - 2)


@given(
    st.binary()
    | TEXTS.map(str.encode)
    | st.tuples(TEXTS, st.binary(max_size=4)).map(lambda pair: pair[0].encode() + pair[1])
)
@example("€".encode()[:2])
@example(b"a" * 13 + "€".encode()[:2])
def test_the_first_byte_that_is_not_utf8_is_found(data: bytes) -> None:
    try:
        data.decode()
        expected = None
    except UnicodeDecodeError as error:
        expected = error.start
    assert find_invalid_utf8(memoryview(data)) == expected


def test_what_is_used_up_or_closed_holds_nothing() -> None:
    for use in (take, Prompt.close):
        body = bytearray(b'"' + b"x" * 100 + b'"')
        prompt = Prompt(memoryview(body))
        with pytest.raises(BufferError):
            body.clear()
        use(prompt)
        body.clear()
        assert not prompt
