"""Work in the background that goes on whatever happens to it.

The rule this file guards: what such work lacks for a while, such as a
descriptor or a process, is a line in the log and never the end of the server.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from codex_serve.core.errors import ChildLostError, LaunchError

logger = logging.getLogger(__name__)

FIRST_WAIT_S = 0.05
LAST_WAIT_S = 5.0
"""How long until the work is tried again: twice as long after each failure, up to
this. It is short because runs may be waiting for what the work is to make."""

STEADY_S = 10.0
"""How long work must go well for its next failure to count as the first."""


async def keep(what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do ``work`` until it returns; whenever it raises an ``Exception``, do it again later.

    Args:
      what: the work, as the log is to call it.
      work: must clean up after itself when it raises.

    Cancellation:
      Cancels the work, and returns when it is over.
    """
    wait_s = FIRST_WAIT_S
    while True:
        started_at = trio.current_time()
        try:
            await work()
            return
        except (LaunchError, ChildLostError) as error:  # it says in a sentence what happened
            logger.error("%s failed, and is tried again: %s", what, error)
        except Exception:
            logger.exception("%s failed, and is tried again", what)
        if trio.current_time() - started_at >= STEADY_S:
            wait_s = FIRST_WAIT_S
        await trio.sleep(wait_s)
        wait_s = min(2 * wait_s, LAST_WAIT_S)
