"""A run as the body of a response.

The rule this file guards: the nursery that runs the command is entered and
left by the task that sends the response, around its loop and never inside an
async generator that the loop drives. So a client that leaves, a failing send
and the end of the run all leave the nursery, and the run with it. (Trio's
reference, "Cancel scopes and nurseries in async generators", tells why a
generator cannot do this.)
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import trio
from quart.wrappers.response import ResponseBody

Producer = Callable[[trio.MemorySendChannel[bytes]], Awaitable[None]]


class ProducedBody(ResponseBody):
    """Sends what a producer task puts on a channel of size zero.

    The producer starts when the sending of the body does, so a client that has
    left before that has started nothing.
    """

    def __init__(self, produce: Producer) -> None:
        self._context = _produced(produce)

    async def __aenter__(self) -> trio.MemoryReceiveChannel[bytes]:
        return await self._context.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._context.__aexit__(exc_type, exc_value, traceback)


@asynccontextmanager
async def _produced(produce: Producer) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
    send, receive = trio.open_memory_channel[bytes](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce, send)
        yield receive
