"""A stand-in for a language model: it answers with the nonce that the prompt holds.

It speaks just enough of the chat-completions protocol, streamed and not, for a LiteLLM proxy to
stand in front of it, and of OpenAI's Responses protocol for codex without a proxy. The last
``nonce-<16 hex digits>`` of the messages is the whole answer, so an answer with the right nonce
proves that the prompt came through; without a nonce in the messages the answer is ``no nonce``.
Every request body is appended, one JSON line each, to the file given by ``--record``: that is how
a test sees what a CLI really sent.

    python model_stand_in.py --host 127.0.0.1 --port 0 --record requests.jsonl

prints ``ready <port>`` once it accepts connections. A test can also have it in its own process,
as ``with StandIn(…)``. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

NONCE = re.compile(r"nonce-[0-9a-f]{16}")
NO_NONCE = "no nonce"


def answer_to(messages: object) -> str:
    """Return the last nonce found anywhere in ``messages``."""
    found = NONCE.findall(json.dumps(messages))
    return found[-1] if found else NO_NONCE


def completion(model: str, answer: str) -> dict[str, Any]:
    """The answer as one chat completion."""
    message = {"role": "assistant", "content": answer}
    return {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }


def halves(answer: str) -> tuple[str, str]:
    """An answer in two pieces, as a real model never sends it whole."""
    half = len(answer) // 2
    return answer[:half], answer[half:]


def chunks(model: str, answer: str) -> Iterator[dict[str, Any]]:
    """The answer as the events of a streamed chat completion."""
    shared = {
        "id": "chatcmpl-stand-in",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }
    first, second = halves(answer)
    for delta in {"role": "assistant", "content": first}, {"content": second}:
        yield shared | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield shared | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    yield shared | {"choices": [], "usage": usage}


def response_events(answer: str) -> Iterator[dict[str, Any]]:
    """The answer as the events of the Responses protocol that one turn of codex needs."""
    yield {"type": "response.created", "response": {"id": "response-1"}}
    place = {"output_index": 0}
    message: dict[str, Any] = {"type": "message", "id": "message-1", "role": "assistant"}
    yield {"type": "response.output_item.added", "item": message | {"content": []}} | place
    piece = {"type": "response.output_text.delta", "item_id": "message-1", "content_index": 0}
    for delta in halves(answer):
        yield piece | {"delta": delta} | place
    content = [{"type": "output_text", "text": answer}]
    yield {"type": "response.output_item.done", "item": message | {"content": content}} | place
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    yield {"type": "response.completed", "response": {"id": "response-1", "usage": usage}}


class StandIn(ThreadingHTTPServer):
    """Serves until shut down, or through a ``with`` block; each connection has its own thread."""

    daemon_threads = True
    # A fork of this process by a test must not keep the port.
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], record: Path | None) -> None:
        super().__init__(address, Handler)
        self._record = record
        self._lock = threading.Lock()

    @property
    def base_url(self) -> str:
        """What a client's base URL is to be."""
        return f"http://{self.server_address[0]!s}:{self.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def note(self, path: str, body: bytes) -> None:
        """Append one request to the record."""
        if self._record is None:
            return
        line = json.dumps({"path": path, "body": body.decode("utf-8", "replace")})
        with self._lock, self._record.open("a", encoding="utf-8") as record:
            record.write(line + "\n")


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.rstrip("/").endswith("/models"):
            self._send_json(
                200, {"object": "list", "data": [{"id": "lab-model", "object": "model"}]}
            )
        else:
            self._send_json(200, {"status": "ok"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.note(self.path, body)
        request = json.loads(body)
        model = str(request.get("model", "lab-model"))
        match self.path.rstrip("/").rpartition("/v1/")[2]:
            case "chat/completions" if request.get("stream"):
                answer = answer_to(request.get("messages"))
                self._send_events([*map(json.dumps, chunks(model, answer)), "[DONE]"])
            case "chat/completions":
                self._send_json(200, completion(model, answer_to(request.get("messages"))))
            case "responses" if request.get("stream"):
                self._send_events(map(json.dumps, response_events(answer_to(request["input"]))))
            case _:
                self._send_json(404, {"error": {"message": f"no such thing: {self.path}"}})

    def _send_json(self, status: int, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _send_events(self, events: Iterable[str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for event in events:
            self.wfile.write(f"data: {event}\n\n".encode())
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
        """Say nothing: the record is the log."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    server = StandIn((options.host, options.port), options.record)
    print(f"ready {server.server_address[1]}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
