"""What it means to start a command: the interface of every way to do it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from codex_serve.processes.command import Launch


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
      returncode: its exit code, or ``-n`` when signal n ended it.
      timed_out: whether its watcher ended it because its time was up.
    """

    returncode: int
    timed_out: bool = False


class Child(Protocol):
    """A started command and everything it has started in turn."""

    async def wait(self) -> Ended:
        """Wait until the command has exited and what it left behind is gone.

        Raises:
          LaunchError: it could not be executed.
          ChildLostError: its watcher is gone; so is the command.

        Cancellation:
          Only stops the waiting.
        """
        ...

    async def end(self) -> None:
        """End the command and what it started: SIGTERM, the grace, SIGKILL.

        Returns once they are gone. Does nothing where they are gone already.
        """
        ...


Starter = Callable[[Launch, tuple[int, ...], trio.CancelScope], AbstractAsyncContextManager[Child]]
"""Starts a launch on three descriptors for its stdin, stdout and stderr.

The scope, which nobody has entered, bounds the wait until something can be started.
Its deadline is also the command's, for starters that can keep to it while the event
loop is blocked. Leaving the context, also by a cancel, ends the child: see
``Child.end``. Entering raises ``LaunchError`` where the scope has ended the wait, or
where the command could not be executed and that is known at once.
"""
