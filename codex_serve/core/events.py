"""What a run says, as values and as NDJSON lines.

The rule this file guards: a line is complete, valid JSON whatever the command
prints, and one line also to those who end lines where Unicode does. Characters
are never cut, invalid bytes become U+FFFD, and nothing is held back but the
first bytes of a character whose rest has not come yet.
"""

import codecs
import re
from collections.abc import Sequence

import msgspec

MAX_EVENT_BYTES = 65_536
"""The most output, in bytes of the pipe, that one event carries."""


class Stdout(msgspec.Struct, frozen=True, tag="stdout", tag_field="type"):
    """Text that the command wrote on its standard output."""

    data: str


class Stderr(msgspec.Struct, frozen=True, tag="stderr", tag_field="type"):
    """Text from the command's standard error, or the server's own words."""

    data: str


class Exit(msgspec.Struct, frozen=True, tag="exit", tag_field="type"):
    """The last event of every stream: the exit code, 0 to 255."""

    code: int


Event = Stdout | Stderr | Exit


class ErrorLine(msgspec.Struct, frozen=True, tag="stderr", tag_field="type"):
    """The body of every refusal.

    It is a stream event too: the Gerrit plugin reads error bodies like streams
    and shows ``data``. ``detail`` is for people and other clients, ``code`` is
    a stable word for programs.
    """

    data: str
    detail: str
    code: str


_encoder = msgspec.json.Encoder()

# JSON wants U+0000 to U+001F escaped. These it does not, and some of them end a
# line: for Python's ``str.splitlines``, and so for httpx.
_C1_CONTROL = re.compile(rb"\xc2[\x80-\x9f]")
_DELETE, *_SEPARATORS = "\x7f", "\u2028", "\u2029"


def encode_events(*events: Event) -> bytes:
    """Return ``events`` as NDJSON, one line each."""
    lines = _encoder.encode_lines(events)
    for event in events:
        if not isinstance(event, Exit) and not _is_plain(event.data):
            return _escape(lines, [event.data for event in events if not isinstance(event, Exit)])
    return lines


def encode_error(code: str, detail: str) -> bytes:
    """Return the one JSON line that every error body is."""
    line = _encoder.encode_lines([ErrorLine(data=detail, detail=detail, code=code)])
    return line if _is_plain(detail) else _escape(line, [detail])


def _is_plain(text: str) -> bool:
    """Tell, in a hundredth of the time that sending ``text`` takes, that nothing is to escape."""
    return text.isascii() and _DELETE not in text


def _escape(lines: bytes, texts: Sequence[str]) -> bytes:
    """Escape the control characters and line ends of ``texts`` that JSON leaves as they are.

    What is looked for first is found far faster than what is then replaced.
    """
    for character in (_DELETE, *_SEPARATORS):
        if any(character in text for text in texts):
            lines = lines.replace(character.encode(), _escaped(character))
    if b"\xc2" in lines:
        lines = _C1_CONTROL.sub(lambda found: _escaped(found[0].decode()), lines)
    return lines


def _escaped(character: str) -> bytes:
    return b"\\u%04x" % ord(character)


class TextDecoder:
    """Turns the bytes of one stream into text, however they were cut.

    The text of all calls together equals ``data.decode("utf-8", "replace")``
    of all the bytes together.
    """

    def __init__(self) -> None:
        self._carry = b""

    def __repr__(self) -> str:
        return f"<TextDecoder carrying {len(self._carry)} bytes>"

    def decode(self, data: bytes) -> list[str]:
        """Return the text that ``data`` completes, cut so that each is for one event."""
        texts = []
        start = 0
        while start < len(data):
            end = start + MAX_EVENT_BYTES - len(self._carry)
            piece = self._carry + data[start:end]
            text, used = codecs.utf_8_decode(piece, "replace", False)
            self._carry = piece[used:]
            if text:
                texts.append(text)
            start = end
        return texts

    def finish(self) -> str:
        """Return what an unfinished character at the end of the stream becomes."""
        text = self._carry.decode("utf-8", "replace")
        self._carry = b""
        return text
