"""The log: one line an event on stderr, without what must not be in a log.

The rule this file guards: who writes a line waits for nobody. Standard error
may be a pipe that nobody reads, a terminal that was stopped, or a slow disk.
"""

import errno
import logging
import os
import queue
import select
import sys
import threading
import traceback
from contextlib import suppress

MAX_WAITING_LINES = 1000
"""How many lines may wait for a slow reader; more are dropped, and counted."""

GATHER_S = 0.1
"""How long a line may wait for others to be written with. A second thread's turn costs
more than a line: with one for each line, ``POST /run`` took 7 % more of the processors,
with one every 20 ms still 5 %."""

FLUSH_S = 0.5
"""How long the end of the process may wait for its last lines to be written."""


class LineFormatter(logging.Formatter):
    """Tells an exception by its type and place in the same line.

    Its message and its traceback can quote what a client sent or what is in
    the environment, so they are written at level DEBUG only.
    """

    def __init__(self, *, tracebacks: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for ``record``."""
        if self._tracebacks or not record.exc_info or record.exc_info[1] is None:
            return super().format(record)
        error = record.exc_info[1]
        line = logging.makeLogRecord({**record.__dict__, "exc_info": None, "exc_text": None})
        return f"{super().format(line)}: {_summary(error)}"


def _summary(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(_summary(each) for each in error.exceptions)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    number = error.errno if isinstance(error, OSError) else None
    name = f" {errno.errorcode.get(number, number)}" if number is not None else ""
    return f"{type(error).__qualname__}{name}{place}"


class BackgroundHandler(logging.Handler):
    """Has a thread of its own write the lines.

    Making the descriptor non-blocking would do without a thread, but whoever else has
    it, such as the shell that started this process, would find it so too.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._lines: queue.Queue[bytes] = queue.Queue(MAX_WAITING_LINES)
        self._dropped = 0
        self._hurry = threading.Event()
        threading.Thread(target=self._write_for_ever, name="log", daemon=True).start()

    def __repr__(self) -> str:
        return f"<BackgroundHandler {self._lines.qsize()} lines waiting>"

    def emit(self, record: logging.LogRecord) -> None:
        """Leave a line for the thread, and before it how many there was no room for."""
        # Formatted here: what the record holds may change, or be large.
        line = self.format(record)
        try:
            self._tell_dropped()
            self._lines.put_nowait(_encode(line))
        except queue.Full:
            self._dropped += 1
        if self._lines.qsize() > MAX_WAITING_LINES // 2:
            self._hurry.set()

    def flush(self) -> None:
        """Wait for the thread, ``FLUSH_S`` at most. ``logging`` calls this at exit."""
        self._hurry.set()
        with suppress(queue.Full):
            self._tell_dropped()
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, FLUSH_S)

    def _tell_dropped(self) -> None:
        """Put the number of dropped lines in their place among the others.

        Raises:
          queue.Full: there is not much room yet. One gap is better than many.
        """
        if self._dropped:
            if self._lines.qsize() > MAX_WAITING_LINES // 2:
                raise queue.Full
            words = "lines of the log were dropped, because nobody read standard error"
            record = logging.makeLogRecord(
                {"levelname": "WARNING", "msg": f"{self._dropped} {words}"}
            )
            self._lines.put_nowait(_encode(self.format(record)))
            self._dropped = 0

    def _write_for_ever(self) -> None:
        while True:
            lines = [self._lines.get()]
            self._hurry.wait(GATHER_S)
            self._hurry.clear()
            lines += [self._lines.get() for _ in range(self._lines.qsize())]
            with suppress(OSError):  # nobody will ever read it, and there is nobody to tell
                self._write(b"".join(lines))
            for _ in lines:
                self._lines.task_done()

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody else has made it so
                select.select([], [self._fd], [])


def _encode(line: str) -> bytes:
    return f"{line}\n".encode(errors="backslashreplace")


def configure_logging(level: str) -> None:
    """Send the log of this process to stderr, from ``level`` up."""
    # Where it was closed, its number may by now be that of something else.
    closed = sys.stderr is None
    handler = logging.NullHandler() if closed else BackgroundHandler(sys.stderr.fileno())
    handler.setFormatter(LineFormatter(tracebacks=level == "DEBUG"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
