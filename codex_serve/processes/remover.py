"""Removing what runs have left, when nobody is to wait for it any longer.

What could not be removed while its run had somebody who waited, because the
engine did not answer, is tried here again and again until it is gone. One
thing at a time, so that an engine that is away costs one supervisor and not
one for each run.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from codex_serve.processes.command import Removal
from codex_serve.processes.removal_limits import GIVE_UP_S, WATCH_S

logger = logging.getLogger(__name__)

MAX_WAITING = 1000

FIRST_PAUSE_S = 0.2
LAST_PAUSE_S = 5.0
"""How long until the next attempt: twice as long after each that failed."""

Attempt = Callable[[Removal], Awaitable[bool]]
"""Tries once to remove something; returns whether nothing is left."""


class Remover:
    """What is to be removed, ``MAX_WAITING`` at most, each in its turn."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        # With each, since when it has been seen to be gone; ``None`` while it is not.
        self._waiting: dict[Removal, float | None] = {}
        self._added = trio.Event()

    def __repr__(self) -> str:
        return f"<Remover {len(self._waiting)} waiting>"

    def add(self, removal: Removal) -> None:
        """Have something removed."""
        if removal not in self._waiting:
            if len(self._waiting) == MAX_WAITING:
                oldest = next(iter(self._waiting))
                del self._waiting[oldest]
                _tell_left(oldest)
            self._waiting[removal] = None
            self._added.set()

    async def run(self) -> None:
        """Remove what is added, for ever. A task of the pool.

        Cancellation:
          What it is at goes on waiting, for ``finish``.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            while not self._waiting:
                self._added = trio.Event()
                await self._added.wait()
            gone = await self._try_next()
            pause_s = FIRST_PAUSE_S if gone else min(2 * pause_s, LAST_PAUSE_S)
            await trio.sleep(pause_s)

    async def _try_next(self) -> bool:
        """Give the first its turn; return whether it is gone. It waits on unless that is sure."""
        removal, gone_since = next(iter(self._waiting.items()))
        gone = await self._attempt(removal)
        now = trio.current_time()
        if removal in self._waiting:  # it was not dropped meanwhile
            del self._waiting[removal]
            gone_since = (now if gone_since is None else gone_since) if gone else None
            # What a client that was killed had asked its engine for may yet appear.
            watch_s = WATCH_S if removal.awaited else 0.0
            if gone_since is None or now - gone_since < watch_s:
                self._waiting[removal] = gone_since
        return gone

    async def finish(self) -> None:
        """Try each once more, for ``GIVE_UP_S`` in all, and tell what is left.

        To be called when ``run`` has ended.
        """
        with trio.move_on_after(GIVE_UP_S):
            for removal in list(self._waiting):
                if await self._attempt(removal):
                    del self._waiting[removal]
        for removal in self._waiting:
            _tell_left(removal)
        self._waiting.clear()


def _tell_left(removal: Removal) -> None:
    finder = "; the next start of a server removes it" if removal.awaited else ""
    logger.error("could not remove what a run has left: %s%s", removal.what[-1], finder)
