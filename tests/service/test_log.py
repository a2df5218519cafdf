"""A line of the log waits for its reader, and nobody waits for the line."""

import http.client
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from codex_serve.logs import MAX_WAITING_LINES, BackgroundHandler
from conftest import StartServer
from process_tree import wait_until
from serving import TIMEOUT_S, Server

DROPPED = re.compile(r"(\d+) lines of the log were dropped, because nobody read standard error")


def record(words: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": words})


class Reader:
    """Reads lines from ``fd``, from when it is told to."""

    def __init__(self, fd: int) -> None:
        self.lines: list[str] = []
        self._fd = fd
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _read(self) -> None:
        # An error is how a terminal ends.
        with open(self._fd, errors="replace") as file, suppress(OSError):
            self.lines.extend(line.rstrip("\n") for line in iter(file.readline, ""))

    def wait_for(self, line: str) -> None:
        wait_until(lambda: line in self.lines, f"{line!r} in the log")


@pytest.fixture(params=[os.pipe, os.openpty], ids=["a pipe", "a terminal"])
def ends(request: pytest.FixtureRequest) -> Iterator[tuple[Reader, BackgroundHandler]]:
    """A handler, and what reads what it writes."""
    make: Callable[[], tuple[int, int]] = request.param
    read_fd, write_fd = make()
    reader, handler = Reader(read_fd), BackgroundHandler(write_fd)
    yield reader, handler
    handler.flush()
    os.close(write_fd)


def test_all_lines_come_in_their_order(ends: tuple[Reader, BackgroundHandler]) -> None:
    reader, handler = ends
    reader.start()
    for number in range(MAX_WAITING_LINES - 1):
        handler.handle(record(f"line {number} ä\udcff"))
    handler.flush()
    last = MAX_WAITING_LINES - 2
    reader.wait_for(rf"line {last} ä\udcff")
    assert reader.lines == [rf"line {number} ä\udcff" for number in range(last + 1)]


def test_who_writes_a_line_waits_for_no_reader(ends: tuple[Reader, BackgroundHandler]) -> None:
    reader, handler = ends
    total = 20_000
    for number in range(total):  # does not end, where one of them waits
        handler.handle(record(f"line {number} of a log that nobody reads for now"))
    reader.start()

    def told() -> bool:
        nonlocal total
        handler.handle(record("a line that may find room"))
        total += 1
        return any(map(DROPPED.fullmatch, reader.lines))

    wait_until(told, "the number of dropped lines")
    handler.handle(record("behind them"))
    reader.wait_for("behind them")
    gaps = [found for found in map(DROPPED.fullmatch, reader.lines) if found]
    written = len(reader.lines) - len(gaps) - 1
    assert written + sum(int(gap[1]) for gap in gaps) == total


def test_a_reader_that_left_is_no_error() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    handler = BackgroundHandler(write_fd)
    for _ in range(2):
        handler.handle(record("into the void"))
        handler.flush()
    os.close(write_fd)


def test_a_descriptor_that_somebody_made_non_blocking_is_no_error() -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    reader, handler = Reader(read_fd), BackgroundHandler(write_fd)
    for number in range(900):
        handler.handle(record(f"{number:1000}"))
    reader.start()
    reader.wait_for(f"{899:1000}")
    assert reader.lines == [f"{number:1000}" for number in range(900)]
    handler.flush()
    os.close(write_fd)


def python(code: str, prefix: str = "") -> subprocess.Popen[bytes]:
    command = ["sh", "-c", f'exec "$@" {prefix}', "-", sys.executable, "-c", code]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


LOG_A_LOT = (
    "import logging; from codex_serve.logs import configure_logging; configure_logging('INFO')\n"
    "for number in range(500): logging.info('%s', str(number) * 100)\n"
)


def test_the_end_of_the_process_waits_for_its_last_lines() -> None:
    process = python(LOG_A_LOT)
    _, log = process.communicate(timeout=TIMEOUT_S)
    assert len(log.splitlines()) == 500
    assert process.returncode == 0


def test_the_end_of_the_process_does_not_wait_for_a_reader() -> None:
    process = python(LOG_A_LOT)
    assert process.wait(TIMEOUT_S) == 0
    process.communicate()


def test_a_standard_error_that_was_closed_is_not_written_to() -> None:
    """Its number is the next file's."""
    code = LOG_A_LOT.replace(
        "configure_logging('INFO')",
        "import os; assert os.open('/dev/full', os.O_RDWR) == 2; r, w = os.pipe(); os.dup2(w, 2);"
        "configure_logging('INFO'); os.set_blocking(r, False)",
    )
    code += "logging.shutdown()\ntry: os._exit(bool(os.read(r, 1)))\nexcept OSError: os._exit(0)"
    process = python(code, "2>&-")
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def run_true(server: Server, times: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    for _ in range(times):
        connection.request("POST", "/run", '{"cli": "true"}', {"Content-Type": "application/json"})
        assert connection.getresponse().read() == b'{"type":"exit","code":0}\n'
    connection.close()


RUNS = 1300
"""More than fit into the pipe and wait for it."""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_standard_error_that_nobody_reads_stops_nothing(start_server: StartServer) -> None:
    server = start_server()
    server.stop_reading_log()
    run_true(server, RUNS)
    assert server.request("GET", "/models").status == 200
    server.read_log_again()
    wait_until(lambda: len(server.log) > MAX_WAITING_LINES, "the lines that waited")
    server.run("true")
    server.wait_for_log("lines of the log were dropped")
    (place,) = [number for number, line in enumerate(server.log) if DROPPED.search(line)]
    server.wait_for_log("run of true exited", after=place)
    dropped = DROPPED.search(server.log[place])
    assert dropped is not None
    written = sum("run of true exited" in line for line in server.log)
    assert written + int(dropped[1]) == RUNS + 1


def test_a_standard_error_that_nobody_reads_does_not_hold_up_the_end(
    start_server: StartServer,
) -> None:
    server = start_server()
    server.stop_reading_log()
    run_true(server, 200)  # more than goes into the pipe
    server.signal(signal.SIGTERM)
    assert server.process.wait(TIMEOUT_S) == 0
