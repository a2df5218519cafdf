"""The two promises of a pipe: all that is ready comes at once, and it ends."""

import os

import pytest
import trio
import trio.testing

from codex_serve.core.json_text import Prompt
from codex_serve.processes.pipes import BULK_PIPE_BYTES, PIPE_BYTES, InputPipe, OutputPipe, Stdio


def long_prompt() -> Prompt:
    return Prompt(memoryview(b'"' + b"x" * 1_000_000 + b'"'))


async def test_all_that_is_ready_at_once_is_one_piece() -> None:
    read_fd, write_fd = os.pipe()
    pipe = OutputPipe(read_fd)
    for _ in range(100):
        os.write(write_fd, b"token ")
    assert await pipe.receive() == b"token " * 100
    os.close(write_fd)
    assert await pipe.receive() == b""
    pipe.close()


async def test_a_pipe_that_was_full_holds_more_from_then_on() -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    pipe = OutputPipe(read_fd)
    sizes = []
    for _ in range(2):
        size = os.write(write_fd, bytes(1_000_000))
        assert len(await pipe.receive()) == size
        sizes.append(size)
    assert sizes == [PIPE_BYTES, BULK_PIPE_BYTES]
    pipe.close()
    os.close(write_fd)


async def test_finish_ends_a_wait_though_a_writer_is_left() -> None:
    read_fd, write_fd = os.pipe()
    pipe = OutputPipe(read_fd)
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            assert await pipe.receive() == b""

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        pipe.finish()
    pipe.close()
    os.close(write_fd)


async def test_what_was_written_before_the_finish_is_read_after_it() -> None:
    read_fd, write_fd = os.pipe()
    pipe = OutputPipe(read_fd)
    os.write(write_fd, b"last words")
    pipe.finish()
    assert [await pipe.receive() for _ in range(2)] == [b"last words", b""]
    pipe.close()
    os.close(write_fd)


async def test_a_reader_that_leaves_ends_the_writing() -> None:
    read_fd, write_fd = os.pipe()
    pipe = InputPipe(write_fd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.send_all, long_prompt())
        await trio.testing.wait_all_tasks_blocked()
        os.close(read_fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_fd)


async def test_finish_ends_the_writing_though_a_reader_is_left() -> None:
    read_fd, write_fd = os.pipe()
    pipe = InputPipe(write_fd)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipe.send_all, long_prompt())
        await trio.testing.wait_all_tasks_blocked()
        pipe.finish()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_fd)
    os.close(read_fd)


async def test_finish_ends_the_writing_also_before_it_has_begun() -> None:
    read_fd, write_fd = os.pipe()
    pipe = InputPipe(write_fd)
    pipe.finish()
    await pipe.send_all(long_prompt())
    assert os.read(read_fd, 1) == b""
    os.close(read_fd)


def test_a_small_prompt_is_written_and_closed_at_once() -> None:
    with Stdio.open() as stdio:
        prompt = Prompt(memoryview(b'"prompt"'))
        stdio.stdin.send_at_once(prompt)
        assert not prompt
        assert os.read(stdio.child_fds[0], 100) == b"prompt"
        assert os.read(stdio.child_fds[0], 100) == b""


def test_no_descriptor_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.listdir("/proc/self/fd")
    with Stdio.open():
        assert len(os.listdir("/proc/self/fd")) == len(before) + 6
    assert os.listdir("/proc/self/fd") == before


def test_no_descriptor_stays_open_when_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = os.pipe2

    def run_out(flags: int) -> tuple[int, int]:
        if made:
            raise OSError(24, "Too many open files")
        made.extend(real(flags))
        return made[0], made[1]

    monkeypatch.setattr(os, "pipe2", run_out)
    with pytest.raises(OSError, match="Too many open files"):
        Stdio.open()
    for fd in made:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
