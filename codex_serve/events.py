"""What a run says, as values and as NDJSON lines.

The rule this file guards: a line is complete, valid JSON whatever the command
prints. Characters are never cut, invalid bytes become U+FFFD, and nothing is
held back but the first bytes of a character whose rest has not come yet.
"""

import codecs

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


def encode_events(*events: Event) -> bytes:
    """Return ``events`` as NDJSON, one line each."""
    return _encoder.encode_lines(events)


def encode_error(code: str, detail: str) -> bytes:
    """Return the one JSON line that every error body is."""
    return _encoder.encode_lines([ErrorLine(data=detail, detail=detail, code=code)])


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
