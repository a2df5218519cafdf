"""Bytes in, NDJSON out: the same text however the bytes were cut."""

import json
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_serve.core.events import (
    MAX_EVENT_BYTES,
    Exit,
    Stderr,
    Stdout,
    TextDecoder,
    encode_error,
    encode_events,
)

SAMPLES = st.one_of(
    st.binary(max_size=64),
    st.text(max_size=32).map(str.encode),
    st.lists(
        st.sampled_from([b"a", b"\xc3", b"\xa9", b"\xe2\x82", b"\xac", b"\xf0\x9f", b"\x98\x80"])
    ).map(b"".join),
)


def decode(*pieces: bytes) -> str:
    decoder = TextDecoder()
    texts = [text for piece in pieces for text in decoder.decode(piece)]
    return "".join([*texts, decoder.finish()])


@pytest.mark.slow
@given(SAMPLES)
def test_whole_and_byte_by_byte_give_the_same_text(data: bytes) -> None:
    expected = data.decode("utf-8", "replace")
    assert decode(data) == expected
    assert decode(*(bytes([byte]) for byte in data)) == expected


@given(SAMPLES, st.lists(st.integers(0, 64)))
def test_any_cut_gives_the_same_text(data: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges)]
    assert decode(*pieces) == data.decode("utf-8", "replace")


def test_only_the_start_of_a_character_is_held_back() -> None:
    decoder = TextDecoder()
    assert decoder.decode("né".encode()[:-1]) == ["n"]
    assert decoder.decode("é€".encode()[1:]) == ["é€"]


def test_an_unfinished_character_at_the_end_becomes_a_replacement() -> None:
    assert decode(b"ok\xe2\x82") == "ok�"


@pytest.mark.parametrize("carry", [b"", b"\xf0", b"\xf0\x9f\x98"])
def test_no_text_is_more_than_an_event_carries(carry: bytes) -> None:
    decoder = TextDecoder()
    assert decoder.decode(carry) == []
    data = "€".encode() * MAX_EVENT_BYTES
    texts = [*decoder.decode(data), decoder.finish()]
    assert "".join(texts) == (carry + data).decode("utf-8", "replace")
    assert max(len(text.encode()) for text in texts) <= MAX_EVENT_BYTES + 2  # carry became U+FFFD


def test_events_are_one_line_of_json_each() -> None:
    lines = encode_events(Stdout('a\nb "\u2028\x00'), Stderr("é"), Exit(3)).splitlines(
        keepends=True
    )
    assert [json.loads(line) for line in lines] == [
        {"type": "stdout", "data": 'a\nb "\u2028\x00'},
        {"type": "stderr", "data": "é"},
        {"type": "exit", "code": 3},
    ]
    assert all(line.endswith(b"\n") for line in lines)


def test_an_error_is_one_line_that_is_a_stream_event_too() -> None:
    line = encode_error("unknown_cli", "no\nsuch")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "type": "stderr",
        "data": "no\nsuch",
        "detail": "no\nsuch",
        "code": "unknown_cli",
    }


TEARING = "\n\r\v\f\x1c\x1d\x1e\x7f\x80\x85\x9f\u2028\u2029"
TEXTS = st.text(st.sampled_from(TEARING) | st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.builds(Stdout, TEXTS) | st.builds(Stderr, TEXTS)))
def test_lines_are_the_same_to_those_who_end_them_where_unicode_does(
    events: list[Stdout | Stderr],
) -> None:
    text = encode_events(*events, Exit(0)).decode()
    lines = text.splitlines()
    assert [json.loads(line) for line in lines[:-1]] == [
        {"type": "stdout" if isinstance(event, Stdout) else "stderr", "data": event.data}
        for event in events
    ]
    assert not any(unicodedata.category(character) == "Cc" for line in lines for character in line)


@given(TEXTS)
def test_an_error_is_one_line_to_them_too(detail: str) -> None:
    (line,) = encode_error("word", detail).decode().splitlines()
    assert json.loads(line)["detail"] == detail
