"""What comes from a peer, handed to h11 in whole and harmless pieces.

The rule this file guards: reading a request takes time in proportion to its
length, and little of it at once, whatever the bytes are. h11 keeps to neither:
some heads and chunk extensions of a few thousand blanks take it seconds, and
a body in chunks of one byte is an event for each.
"""

import re

import h11

MAX_HEAD_BYTES = 16_384
"""The most that a request line and its headers may take, or the trailers of a body."""

MAX_HEADERS = 100
"""The most headers that a request may have, and trailers."""

MAX_FRAMING_BYTES = 16_384
"""The most that the framing of a chunked body may take beyond as much as its content.

So chunks of five bytes and more may be as many as they like."""

CHUNKS_AT_ONCE = 100
"""The most chunks that are read before others have their turn: about a tenth of a millisecond."""

_BLOCK_END = re.compile(rb"\n\r?\n")
_ERROR_QUOTE = re.compile(r":? bytearray\(.*", re.DOTALL)

# The line end before it is that of the chunk before, or of the head. Nothing in it
# can match in two ways, so that a failure costs no search.
_SIZE = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})(?:;[^\r\n]*|[ \t]*)\r\n")
_SIZE_BEGUN = re.compile(rb"\r?|\r\n(?:[0-9A-Fa-f]{1,16}(?:;[^\r\n]*|[ \t]*)\r?)?")


class Incoming:
    """The bytes of one connection that are still to be read, and how far the reading is.

    h11 gets each head in one piece, checked; of a body with a length all that
    there is of it; and of a chunked body nothing but its end.
    """

    def __init__(self, connection: h11.Connection) -> None:
        self._h11 = connection
        self._waiting = b""
        self._by_head = False
        self._chunked = False
        self._left = 0  # bytes of the body, or of the chunk, that have not come
        self._ending = False  # the last chunk has come, the trailers have not
        self._framing_left = 0

    def __repr__(self) -> str:
        return f"<Incoming {len(self._waiting)} bytes>"

    @property
    def waiting_bytes(self) -> int:
        """How much has come and not been read."""
        return len(self._waiting)

    @property
    def by_head(self) -> bool:
        """Whether the request, as far as it has come, is a ``HEAD``: its answer has no body."""
        return self._by_head

    def receive(self, data: bytes) -> None:
        """Add what has come."""
        self._waiting = self._waiting + data if self._waiting else data

    def next_event(self) -> h11.Request | bytes | h11.EndOfMessage | None:
        """Read on.

        Returns:
          A request, some of its body, its end; or ``None`` when there is nothing
          more for now, or the request that has come in is still to be answered.

        Raises:
          h11.RemoteProtocolError: it is not HTTP, or more of it than anybody needs;
            its text is for the peer.
        """
        state = self._h11.their_state
        try:
            if state is h11.IDLE:
                return self._read_request()
            if state is h11.SEND_BODY:
                return self._read_chunks() if self._chunked else self._read_length()
        except h11.RemoteProtocolError as error:
            words = _ERROR_QUOTE.sub("", str(error))
            raise h11.RemoteProtocolError(words, error.error_status_hint) from None
        return None

    def _read_request(self) -> h11.Request | None:
        # Line ends before a request are no request (RFC 9112, 2.2): some clients
        # end a body with one. The time for a head passes meanwhile.
        self._waiting = self._waiting.lstrip(b"\r\n")
        self._by_head = self._waiting.startswith(b"HEAD ")
        if self._waiting and self._waiting[0] <= 0x20:  # TLS, or the like: it may have no lines
            raise h11.RemoteProtocolError("illegal request line")
        head = self._take_block()
        if head is None:
            return None
        self._h11.receive_data(head)
        request = self._h11.next_event()
        assert isinstance(request, h11.Request)
        headers = dict(request.headers)  # h11 has seen to it that there is one of each of these
        self._left = int(headers.get(b"content-length", 0))
        self._chunked = b"transfer-encoding" in headers
        if self._chunked and b"content-length" in headers:
            # A proxy may have gone by the other one (RFC 9112, 6.1).
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        self._ending = False
        self._framing_left = MAX_FRAMING_BYTES
        if self._chunked:
            self._waiting = b"\r\n" + self._waiting  # see _SIZE
        return request

    def _take_block(self) -> bytes | None:
        """Return all up to an empty line, once it is there."""
        end = _BLOCK_END.search(self._waiting, 0, MAX_HEAD_BYTES)
        if end is None:
            if len(self._waiting) >= MAX_HEAD_BYTES:
                raise h11.RemoteProtocolError(f"more than {MAX_HEAD_BYTES} bytes of headers", 431)
            return None
        block = self._waiting[: end.end()]
        self._waiting = self._waiting[end.end() :]
        if block.count(b"\n") > MAX_HEADERS + 2:  # the request line and the empty one
            raise h11.RemoteProtocolError(f"more than {MAX_HEADERS} headers", 431)
        # h11 would find these too, after a time that is quadratic in the blanks before.
        stray = block.count(b"\r") - block.count(b"\r\n")
        if stray or b"\0" in block or b"\v" in block or b"\f" in block:
            raise h11.RemoteProtocolError("a control character in its headers")
        return block

    def _read_length(self) -> bytes | h11.EndOfMessage | None:
        """Read on in a body with a length, which may be 0."""
        if self._left:
            if not self._waiting:
                return None
            data = self._waiting[: self._left]
            self._waiting = self._waiting[len(data) :]
            self._left -= len(data)
            self._h11.receive_data(data)
            self._h11.next_event()  # the same again
            return data
        return self._read_end()

    def _read_end(self) -> h11.EndOfMessage:
        event = self._h11.next_event()
        assert isinstance(event, h11.EndOfMessage)
        return event

    def _read_chunks(self) -> bytes | h11.EndOfMessage | None:
        """Read on in a chunked body."""
        if not self._ending:
            pieces = self._take_chunks()
            if pieces:
                return b"".join(pieces)
        if self._ending and (trailers := self._take_block()):
            self._h11.receive_data(b"0" + trailers)
            return self._read_end()
        return None

    def _take_chunks(self) -> list[bytes]:
        """Return what there is of the content, from ``CHUNKS_AT_ONCE`` chunks at most."""
        data, position, begun = self._waiting, 0, 0
        pieces: list[bytes] = []
        while len(pieces) < CHUNKS_AT_ONCE and not self._ending:
            if self._left:
                piece = data[position : position + self._left]
                if not piece:
                    break
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                self._framing_left += len(piece)
            elif size := _SIZE.match(data, position):
                self._left = int(size[1], 16)
                self._ending = not self._left
                self._framing_left -= size.end() - position
                position = size.end()
            elif _SIZE_BEGUN.fullmatch(data, position):
                begun = len(data) - position
                break
            else:
                raise h11.RemoteProtocolError("illegal chunk size")
        if begun > min(self._framing_left, MAX_FRAMING_BYTES):
            raise h11.RemoteProtocolError("its chunks are too small, or their extensions too long")
        if self._ending:
            position -= 2  # the line end goes with the trailers
        self._waiting = data[position:]
        return pieces
