"""The plain way to start a command: in a process group of its own.

Portable, and honest about its limits: a descendant that leaves the group by
``setsid``, or a server that is killed, leaves processes behind.
"""

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from codex_serve.launchers import Launch
from codex_serve.supervision.child import Ended
from codex_serve.supervision.launching import launch_error

CLEANUP_S = 4.0
"""How long one cleanup command may take."""


class GroupedChild:
    """A command that leads its own session, and so its own process group."""

    def __init__(self, process: trio.Process, grace_s: float) -> None:
        self._process = process
        self._grace_s = grace_s
        self._group_gone = False

    def __repr__(self) -> str:
        return f"<GroupedChild pid={self._process.pid} returncode={self._process.returncode}>"

    async def wait(self) -> Ended:
        """See ``Child.wait``. Here, what is left of the group is killed at once."""
        await self._wait_for_exit()
        if not self._group_gone:
            self._signal_group(signal.SIGKILL)  # before reaping: the number is still ours
            self._group_gone = True
        return Ended(await self._process.wait())

    async def end(self) -> None:
        """See ``Child.end``."""
        if not self._group_gone:
            self._signal_group(signal.SIGTERM)
            with trio.move_on_after(self._grace_s):
                await self._wait_for_exit()
            self._signal_group(signal.SIGKILL)
            await self.wait()

    async def _wait_for_exit(self) -> None:
        """Wait for the leader to exit and leave it unreaped, where that can be done."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            await self._process.wait()
        elif self._process.returncode is None:
            await trio.to_thread.run_sync(
                os.waitid,
                os.P_PID,
                self._process.pid,
                os.WEXITED | os.WNOWAIT,
                abandon_on_cancel=True,
                limiter=trio.CapacityLimiter(1),  # a waiting thread must not stop others
            )

    def _signal_group(self, number: signal.Signals) -> None:
        # macOS answers EPERM for a group of which only zombies are left.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)


class ProcessGroupStarter:
    """A ``Starter`` for systems without subreapers."""

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s

    @asynccontextmanager
    async def __call__(
        self, launch: Launch, stdio: tuple[int, ...], limit_s: float
    ) -> AsyncIterator[GroupedChild]:
        """Start ``launch``; the time limit is left to the caller."""
        stdin, stdout, stderr = stdio
        try:
            process = await trio.lowlevel.open_process(
                launch.argv,
                env=launch.env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise launch_error(launch, error) from error
        child = GroupedChild(process, self._grace_s)
        try:
            yield child
        finally:
            with trio.CancelScope(shield=True):
                await child.end()
                for argv in launch.cleanup:
                    await _clean_up(argv, launch)


async def _clean_up(argv: tuple[str, ...], launch: Launch) -> None:
    """Run a command that removes what the run left elsewhere, for ``CLEANUP_S`` at most."""
    with trio.move_on_after(CLEANUP_S), suppress(OSError):
        await trio.run_process(
            argv, env=launch.env, check=False, capture_stdout=True, capture_stderr=True
        )
