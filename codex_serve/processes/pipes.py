"""The pipes between the server and a command's three standard streams.

The rule this file guards: everything written into an output pipe before the
command was gone is read, and nothing waits on a pipe after that, whoever still
holds its other end.
"""

import fcntl
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import trio

from codex_serve.core.json_text import Prompt

PIPE_BYTES = 65_536
"""What the kernel gives a pipe."""

BULK_PIPE_BYTES = 262_144
"""What a pipe gets that has shown to carry much: fewer turns of writer and
reader, for 1.3 to 1.6 times the throughput. Not all get it, because the
kernel bounds what the pipes of a user take together (64 MiB)."""


def _enlarge(fd: int) -> int:
    """Enlarge a pipe where the system allows it; return its size in bytes."""
    try:
        return fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, BULK_PIPE_BYTES)
    except (AttributeError, OSError):  # not Linux; or the user's pipes have their share
        return PIPE_BYTES


class OutputPipe:
    """The reading end of one output stream. Owns its descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._size = PIPE_BYTES
        self._finished = False

    def __repr__(self) -> str:
        return f"<OutputPipe fd={self._fd}{' finished' if self._finished else ''}>"

    async def receive(self) -> bytes:
        """Wait for output and return all that is ready, 256 KiB at most.

        Returns:
          ``b""`` at the end: when every writer has closed the pipe or, after
          ``finish``, when it is empty.

        Cancellation:
          Nothing is lost: bytes that were not returned stay in the pipe.
        """
        while True:
            try:
                data = os.read(self._fd, self._size)
                if len(data) == self._size == PIPE_BYTES:
                    self._size = _enlarge(self._fd)
                if not data:
                    self._finished = True
                return data
            except BlockingIOError:
                if self._finished:
                    return b""
            with suppress(trio.ClosedResourceError):  # finish() woke us: one more look
                await trio.lowlevel.wait_readable(self._fd)

    def finish(self) -> None:
        """Say that the command is gone: what is in the pipe now is all there is.

        A process that is not the run's may still hold the writing end; without
        this the reader would wait for it.
        """
        if not self._finished:
            self._finished = True
            trio.lowlevel.notify_closing(self._fd)

    def close(self) -> None:
        """Close the descriptor. Nobody may be waiting in ``receive``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class InputPipe:
    """The writing end of the command's standard input. Owns its descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._finished = False

    def __repr__(self) -> str:
        return f"<InputPipe fd={self._fd}>"

    async def send_all(self, prompt: Prompt) -> None:
        """Write ``prompt``, then close, so that the command sees the end.

        A command that does not read its input is no error: the rest is dropped.
        So is what is left at ``finish``.
        """
        try:
            while prompt and not self._finished:
                try:
                    prompt.advance(os.write(self._fd, prompt.piece))
                except BlockingIOError:
                    await trio.lowlevel.wait_writable(self._fd)
        except (BrokenPipeError, trio.ClosedResourceError):  # nobody reads; finish() woke us
            pass
        finally:
            prompt.close()
            self.close()

    def send_at_once(self, prompt: Prompt) -> None:
        """Write what the pipe takes without waiting; close when that is all.

        Called before the command exists, it spares a small prompt its task. What
        is left is for ``send_all``.
        """
        if len(prompt.piece) > PIPE_BYTES:
            _enlarge(self._fd)
        if prompt:
            prompt.advance(os.write(self._fd, prompt.piece))
        if not prompt:
            self.close()

    def finish(self) -> None:
        """Say that the command is gone: nothing more is written.

        A process that is not the run's may still hold the reading end; without
        this the writer would wait for it.
        """
        if self._fd >= 0:
            self._finished = True
            trio.lowlevel.notify_closing(self._fd)

    def close(self) -> None:
        """Close the descriptor. Nobody may be waiting in ``send_all``."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(slots=True)
class Stdio:
    """The pipes of one run: our ends, and the command's as plain descriptors.

    As a context manager it closes whatever is still open.
    """

    stdin: InputPipe
    stdout: OutputPipe
    stderr: OutputPipe
    child_fds: tuple[int, ...]

    @classmethod
    def open(cls) -> Self:
        """Make three pipes.

        Raises:
          OSError: no descriptors are left; nothing stays open.
        """
        fds: list[int] = []
        try:
            for _ in range(3):
                fds.extend(os.pipe2(os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe())
            return cls(
                stdin=InputPipe(fds[1]),
                stdout=OutputPipe(fds[2]),
                stderr=OutputPipe(fds[4]),
                child_fds=(fds[0], fds[3], fds[5]),
            )
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def finish(self) -> None:
        """Say that the command is gone: see the pipes' own."""
        self.stdin.finish()
        self.stdout.finish()
        self.stderr.finish()

    def close_child_fds(self) -> None:
        """Close our copies of the command's ends, once the command has its own."""
        for fd in self.child_fds:
            os.close(fd)
        self.child_fds = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close_child_fds()
        self.stdin.close()
        self.stdout.close()
        self.stderr.close()
