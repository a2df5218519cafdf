"""The real server as a subprocess, and clients that show what comes when."""

import fcntl
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from process_tree import reap_adopted, wait_until

Event = dict[str, Any]

PYTHONPATH = os.pathsep.join([str(Path(__file__).parent.parent), str(Path(__file__).parent)])
TIMEOUT_S = 30
"""How long a client waits for anything before the test fails."""


@dataclass(frozen=True)
class Answer:
    """A whole response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def events(self) -> list[Event]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> Event:
        """The one JSON line that an error body is."""
        assert self.body.endswith(b"\n")
        (event,) = self.events
        return dict(event)


def text_of(events: Sequence[Event], kind: str) -> str:
    return "".join(event["data"] for event in events if event["type"] == kind)


def exit_code(events: Sequence[Event]) -> int:
    """The code of the one exit event, which must be the last event."""
    (code,) = [event["code"] for event in events if event["type"] == "exit"]
    assert events[-1]["type"] == "exit"
    return int(code)


class Stream:
    """A run whose events are read one at a time."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self._connection = connection
        self._response = connection.getresponse()
        self.status = self._response.status

    def next_event(self) -> Event:
        line = self._response.readline()
        assert line.endswith(b"\n"), f"the stream ended with {line!r}"
        event: Event = json.loads(line)
        return event

    def read_until(self, text: str, kind: str = "stdout") -> str:
        """Read events until the joined text of ``kind`` holds ``text``."""
        seen = ""
        while text not in seen:
            event = self.next_event()
            assert event["type"] != "exit", f"the run ended with {event} after {seen!r}"
            seen += event["data"] if event["type"] == kind else ""
        return seen

    def rest(self) -> list[Event]:
        return [json.loads(line) for line in self._response.read().splitlines()]

    def disconnect(self) -> None:
        """Leave without a word, as a client that is killed."""
        self._response.close()
        self._connection.close()


class Server:
    """A running server of which everything can be seen from outside.

    Attributes:
      silence_s: how long a response may be silent before the test fails.
    """

    silence_s: float = TIMEOUT_S

    def __init__(
        self,
        env: Mapping[str, str],
        args: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "codex_serve"),
    ) -> None:
        self.process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", "0", *args],
            env={**os.environ, "PYTHONPATH": PYTHONPATH, **env},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.port = 0
        self._listening = threading.Event()
        self._log_is_read = threading.Event()
        self._log_is_read.set()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        if not self._listening.wait(TIMEOUT_S) or not self.port:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not start: {self.log}")

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            if " listening on " in line:
                self.port = int(line.rsplit(":", 1)[1])
                self._listening.set()
            self._log_is_read.wait()
        self._listening.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.read_log_again()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()
            reap_adopted()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_log(self, words: str, after: int = 0) -> None:
        """Wait for a line with ``words`` behind the first ``after`` lines of the log.

        What is said of a run comes after the end of its response.
        """
        wait_until(lambda: any(words in line for line in self.log[after:]), f"{words!r} in the log")

    def stop_reading_log(self) -> None:
        """Read standard error no more, and let little of it go into the pipe (some 12 KiB)."""
        assert self.process.stderr is not None
        fcntl.fcntl(self.process.stderr, fcntl.F_SETPIPE_SZ, 4096)
        self._log_is_read.clear()

    def read_log_again(self) -> None:
        self._log_is_read.set()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.silence_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def post(self, body: bytes | Mapping[str, Any], path: str = "/run") -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, {"Content-Type": "application/json"})

    def post_run(self, body: Mapping[str, Any]) -> tuple[int, list[Event]]:
        answer = self.post(body)
        return answer.status, answer.events

    def run(self, cli: str, *args: str, **fields: Any) -> list[Event]:
        """The events of a run that must be accepted."""
        answer = self.post({"cli": cli, "args": args, **fields})
        assert answer.status == 200, answer.body
        return answer.events

    @contextmanager
    def stream(self, cli: str, *args: str, **fields: Any) -> Iterator[Stream]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        body = json.dumps({"cli": cli, "args": args, **fields})
        connection.request("POST", "/run", body, {"Content-Type": "application/json"})
        stream = Stream(connection)
        try:
            yield stream
        finally:
            stream.disconnect()


def refused_start(
    args: Sequence[str] = (), env: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> str:
    """Start a server that cannot work; return the one line that it says about it."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "codex_serve", "--host=127.0.0.1", "--port=0", *args],
        env={**os.environ, "PYTHONPATH": PYTHONPATH, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("codex-serve: ")
    return line
