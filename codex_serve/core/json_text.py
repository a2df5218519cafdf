"""Long JSON without long copies of it.

A ``str`` of 16 MB of text is 64 MB when one of its characters is an emoji, and
its bytes are there as well. What is here looks at the bytes themselves, and
decodes a piece at a time, only when it is wanted.
"""

import codecs
from collections.abc import Iterator

import msgspec

PIECE_BYTES = 262_144
"""How much is looked at, or decoded, at a time. A large pipe takes as much."""

_EMPTY = memoryview(b"")
_decode_string = msgspec.json.Decoder(str).decode


def pieces(data: memoryview) -> Iterator[bytes]:
    """Yield copies of ``data``, one part after the other."""
    for start in range(0, len(data), PIECE_BYTES):
        yield bytes(data[start : start + PIECE_BYTES])


def find_invalid_utf8(data: memoryview) -> int | None:
    """Return the index of the first byte of ``data`` that is not UTF-8, if there is one."""
    start = 0
    while start < len(data):
        end = start + PIECE_BYTES
        try:
            _, used = codecs.utf_8_decode(data[start:end], "strict", end >= len(data))
        except UnicodeDecodeError as error:
            return start + error.start
        start += used
    return None


def measure_strings(data: memoryview, enough: int) -> tuple[int, int]:
    """Return how many strings are in ``data``, and how long it would be with few escapes.

    Args:
      data: valid JSON. Keys are strings too.
      enough: from this length on the rest is not looked at.

    Returns:
      The number, and the bytes of ``data`` where each escape is one. No character
      has fewer in UTF-8; so the strings have at least that, less what is between them.
    """
    quotes, size, carry = 0, 0, b""
    for piece in pieces(data):
        text = carry + piece
        escapes = 0
        if b"\\" in text:
            text = text.replace(b"\\\\", b".")
            carry = b"\\" if text.endswith(b"\\") else b""  # what it escapes is in the next piece
            text = text[: len(text) - len(carry)]
            quotes -= text.count(b'\\"')
            escapes = text.count(b"\\") + 4 * text.count(b"\\u")
        quotes += text.count(b'"')
        size += len(text) - escapes
        if size > enough:
            break
    return quotes // 2, size


class Prompt:
    """What a JSON string means, as UTF-8, of which the first bytes are taken again and again.

    Holds the JSON, and one piece of it in UTF-8. It is falsy when nothing is
    left, and then holds nothing.

    Attributes:
      piece: what comes next; empty when nothing is left.
    """

    def __init__(self, text: memoryview) -> None:
        """Make one of ``text``, a valid JSON string with its quotes, in UTF-8."""
        self._text = text[1:-1]
        self.piece = self._next_piece()

    def __repr__(self) -> str:
        return f"<Prompt of at most {len(self.piece) + len(self._text)} bytes>"

    def __bool__(self) -> bool:
        return bool(self.piece)

    def advance(self, size: int) -> None:
        """Say that the first ``size`` bytes of ``piece`` have been taken."""
        self.piece = self.piece[size:] or self._next_piece()

    def close(self) -> None:
        """Drop what is left."""
        self._text = self.piece = _EMPTY

    def _next_piece(self) -> memoryview:
        """Decode some more, where there is more."""
        if not self._text:
            return _EMPTY
        end = PIECE_BYTES
        while end < len(self._text) and self._text[end] & 0xC0 == 0x80:
            end -= 1  # a character would be cut
        piece = bytes(self._text[:end])
        used = len(piece)
        if b"\\" in piece:
            piece, used = _unescape(piece)
        self._text = self._text[used:] or _EMPTY
        return memoryview(piece)


def _unescape(piece: bytes) -> tuple[bytes, int]:
    """Decode the start of a JSON string, all of it but an escape at the end that is cut.

    Returns:
      UTF-8, and how many bytes of ``piece`` it is made of.
    """
    used = len(piece)
    while True:
        try:
            return _decode_string(b'"%b"' % piece[:used]).encode(), used
        except msgspec.DecodeError:
            used = piece.rindex(b"\\", 0, used)  # twice for the two halves of a pair
