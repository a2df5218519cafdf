"""Work in the background that goes on, and removals that wait for their turn."""

import itertools
import logging
import math

import pytest
import trio
from trio.testing import MockClock

from codex_serve.processes.command import Removal
from codex_serve.processes.keeper import LAST_WAIT_S, keep
from codex_serve.processes.removal_limits import GIVE_UP_S, WATCH_S
from codex_serve.processes.remover import LAST_PAUSE_S, MAX_WAITING, Remover


async def test_work_that_fails_is_tried_again_later_each_time_until_it_returns(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    times: list[float] = []

    async def work() -> None:
        times.append(trio.current_time())
        if len(times) < 12:
            raise OSError(24, "no more")

    await keep("the work", work)
    waits = [round(after - before, 3) for before, after in itertools.pairwise(times)]
    assert waits == sorted(waits)
    assert waits[0] < 0.1
    assert waits[-1] == LAST_WAIT_S
    assert len(caplog.records) == 11
    assert all("the work failed" in record.message for record in caplog.records)


async def test_after_a_while_of_good_work_a_failure_counts_as_the_first(
    autojump_clock: MockClock,
) -> None:
    failed_at: list[float] = []

    async def work() -> None:
        if failed_at and len(failed_at) % 5 == 0:
            await trio.sleep(60)
        failed_at.append(trio.current_time())
        if len(failed_at) == 7:
            return
        raise RuntimeError

    await keep("the work", work)
    assert failed_at[6] - failed_at[5] < 0.1


async def test_a_cancel_ends_work_and_keeper(autojump_clock: MockClock) -> None:
    with trio.move_on_after(1) as scope:
        await keep("sleeping", trio.sleep_forever)
    assert scope.cancelled_caught


def container(name: str, *, awaited: bool = True) -> Removal:
    return Removal(("container", "/usr/bin/docker", name), awaited=awaited)


class Engine:
    """What is there; ``up_at`` is when it starts to answer."""

    def __init__(self, up_at: float) -> None:
        self.up_at = up_at
        self.attempts: list[str] = []
        self.at_once = 0

    async def remove(self, removal: Removal) -> bool:
        assert self.at_once == 0
        self.at_once += 1
        self.attempts.append(removal.what[-1])
        await trio.sleep(0.2)
        self.at_once -= 1
        return trio.current_time() >= self.up_at


async def test_removals_go_on_one_at_a_time_until_each_is_sure(autojump_clock: MockClock) -> None:
    engine = Engine(up_at=100)
    remover = Remover(engine.remove)
    names = [f"c{number}" for number in range(5)]
    with trio.move_on_after(100 + LAST_PAUSE_S + 2 * WATCH_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remover.run)
            for name in names * 3:
                remover.add(container(name))
            await trio.sleep(100)
            assert set(engine.attempts) == set(names)
            assert len(engine.attempts) < 40
    count = len(engine.attempts)
    await remover.finish()  # all are gone: it has nothing to try
    assert len(engine.attempts) == count


async def test_the_oldest_of_too_many_is_left_and_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Engine(up_at=math.inf)
    remover = Remover(engine.remove)
    for number in range(MAX_WAITING + 2):
        remover.add(container(f"c{number}"))
    words = [record.message for record in caplog.records]
    assert words == [
        f"could not remove what a run has left: c{number}; the next start of a server removes it"
        for number in (0, 1)
    ]
    started_at = trio.current_time()
    with caplog.at_level(logging.ERROR):
        await remover.finish()
    assert trio.current_time() - started_at == pytest.approx(GIVE_UP_S)
    assert len(caplog.records) == 2 + MAX_WAITING


async def test_a_folder_is_gone_when_it_is_gone(autojump_clock: MockClock) -> None:
    engine = Engine(up_at=0)
    remover = Remover(engine.remove)
    remover.add(container("folder", awaited=False))
    with trio.move_on_after(WATCH_S):
        await remover.run()
    assert engine.attempts == ["folder"]
