"""A stand-in for the model behind codex: it answers with the nonce that the prompt carried.

Only the test knows the nonce before it is sent. So an answer that holds it proves the whole
way there and back: through our server's pipe to codex, from codex to the model, and back.

It speaks as much of OpenAI's Responses API as one turn of codex needs, on loopback alone.
"""

import json
import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

NONCE = re.compile(r"nonce-[0-9a-f]{16}")


def prompt_of(request: Mapping[str, Any]) -> str:
    """The text that the user sent last.

    codex puts messages of its own before it, of the user's role too: the last one is the prompt.
    """
    from_user = [item for item in request["input"] if item.get("role") == "user"]
    return "".join(part["text"] for part in from_user[-1]["content"])


def answer_to(prompt: str) -> str:
    """The stand-in's answer, which no part of the way could have made up without the prompt."""
    nonce = NONCE.search(prompt)
    return f"The model read {nonce[0]}." if nonce else "The model read no nonce."


def events_of(answer: str) -> Iterator[dict[str, Any]]:
    """The events of one answer, a word at a time as a real model sends it."""
    yield {"type": "response.created", "response": {"id": "response-1"}}
    message: dict[str, Any] = {"type": "message", "id": "message-1", "role": "assistant"}
    yield {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": message | {"content": []},
    }
    for word in re.findall(r"\S+\s*", answer):
        yield {
            "type": "response.output_text.delta",
            "item_id": "message-1",
            "output_index": 0,
            "content_index": 0,
            "delta": word,
        }
    yield {
        "type": "response.output_item.done",
        "output_index": 0,
        "item": message | {"content": [{"type": "output_text", "text": answer}]},
    }
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    yield {"type": "response.completed", "response": {"id": "response-1", "usage": usage}}


class ModelStandIn(ThreadingHTTPServer):
    """The stand-in, serving from ``__enter__`` to ``__exit__``.

    Leaving waits for the requests that are being answered: no thread is left behind.

    Attributes:
      prompts: what it was asked, in the order in which it came.
    """

    # Not daemons, so that closing joins them.
    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.prompts: list[str] = []
        self._thread = Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def base_url(self) -> str:
        """What codex's ``base_url`` is to be."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """One request on one connection: HTTP/1.0, so the end of the answer is the end of both."""

    server: ModelStandIn
    # A connection that never sends its request must not hold up the end of the test for ever.
    timeout = 10.0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path != "/v1/responses":
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        prompt = prompt_of(json.loads(body))
        self.server.prompts.append(prompt)
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in events_of(answer_to(prompt)):
            self.wfile.write(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
