"""Bodies of requests with what no process can take."""

import json

MAX_BODY_BYTES = 16 * 1024 * 1024


def fill(parts: tuple[bytes, bytes, bytes]) -> bytes:
    """A body of the full size: a beginning, something again and again, an end."""
    start, part, end = parts
    return start + part * ((MAX_BODY_BYTES - len(start) - len(end)) // len(part)) + end


HUGE = {
    "empty arguments": fill((b'{"cli":"codex","args":[', b'"",', b'""]}')),
    "arguments that are an escape": fill((b'{"cli":"codex","args":[', b'"\\"",', b'""]}')),
    "arguments that are a backslash": fill((b'{"cli":"codex","args":[', b'"\\\\",', b'""]}')),
    "empty arguments with blanks": fill((b'{"cli":"codex","args":[', b'"" ,\n', b'""]}')),
    "a long argument": fill((b'{"cli":"codex","args":["', b"x", b'"]}')),
    "a long argument and an emoji": fill(('{"cli":"codex","args":["😀'.encode(), b"x", b'"]}')),
    "a long PATH": fill((b'{"cli":"codex","env":{"PATH":"', b":", b'"}}')),
    "a long cli": fill((b'{"cli":"', b"x", b'"}')),
    "1,200,000 variables": json.dumps(
        {"cli": "codex", "env": {f"{number:x}": "" for number in range(1_200_000)}},
        separators=(",", ":"),
    ).encode(),
}
