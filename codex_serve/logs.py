"""The log: one line an event on stderr, without what must not be in a log."""

import logging
import traceback


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
    return f"{type(error).__qualname__}{place}"


def configure_logging(level: str) -> None:
    """Send the log of this process to stderr, from ``level`` up."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(tracebacks=level == "DEBUG"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
