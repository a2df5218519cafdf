"""The plain way to start a command: in a process group of its own.

Portable, and honest about its limits: a descendant that leaves the group by
``setsid``, or a server that is killed, leaves processes behind.
"""

import errno
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL

import trio

import codex_serve
from codex_serve.core.execution import Ended
from codex_serve.processes import disposal
from codex_serve.processes.command import Launch, Removal
from codex_serve.processes.exec_errors import argv_with_file, file_of, launch_error
from codex_serve.processes.lookup import NO_INTERPRETER, candidates
from codex_serve.processes.removal_limits import (
    ATTEMPT_S,
    ENDING_S,
    GIVE_UP_S,
    GOING_ON_S,
    LAST_INTERVAL_S,
    watch_s,
)

logger = logging.getLogger(__name__)

_ROOT = str(Path(codex_serve.__file__).parent.parent)
_DISPOSE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from codex_serve.processes.disposal import attempt; sys.exit(attempt(sys.argv[2:]))"
)


class GroupedChild:
    """A command that leads its own session, and so its own process group."""

    def __init__(self, process: trio.Process, launch: Launch, grace_s: float) -> None:
        self._process = process
        self._launch = launch
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
            removal = self._launch.removal
            if removal is not None and removal.awaited:
                await self._end_by(removal)
            else:
                self._signal_group(signal.SIGTERM)
                with trio.move_on_after(self._grace_s):
                    await self._wait_for_exit()
            self._signal_group(signal.SIGKILL)
            await self.wait()

    async def _end_by(self, removal: Removal) -> None:
        """Remove what the command waits for, until it ends or that takes too long."""
        with trio.move_on_after(ENDING_S):
            async with trio.open_nursery() as nursery:

                async def remove() -> None:
                    while True:
                        await _attempt(removal)
                        await trio.sleep(LAST_INTERVAL_S)

                nursery.start_soon(remove)
                await self._wait_for_exit()
                nursery.cancel_scope.cancel()

    async def close(self) -> None:
        """See ``Child.close``."""
        with trio.CancelScope(shield=True):
            await self.end()
            await self._remove_rest()

    async def _remove_rest(self) -> None:
        """Remove what the command has left elsewhere; see ``command.Removal``."""
        removal = self._launch.removal
        if removal is None:
            return
        assert self._process.returncode is not None  # it has been ended
        to_watch_s = watch_s(self._process.returncode, awaited=removal.awaited)
        if to_watch_s is None:
            return
        watch_until = trio.current_time() + to_watch_s
        give_up_late_at = watch_until + GIVE_UP_S + GOING_ON_S
        with trio.move_on_at(watch_until + GIVE_UP_S) as patience:
            while True:
                status = await _attempt(removal)
                if status == disposal.GOING_ON:
                    patience.deadline = min(trio.current_time() + GIVE_UP_S, give_up_late_at)
                elif status == disposal.GONE and trio.current_time() >= watch_until:
                    return
                await trio.sleep(LAST_INTERVAL_S)
        logger.error("could not remove what a run has left: %s", removal.what[-1])

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

    async def start(self, launch: Launch, stdio: tuple[int, ...], limit_s: float) -> GroupedChild:
        """See ``Starter.start``; the time limit is left to the caller."""
        stdin, stdout, stderr = stdio
        with file_of(launch) as more:
            try:
                process = await trio.lowlevel.open_process(
                    list(map(_as_utf8, argv_with_file(launch, *more))),
                    env=_environment(launch),
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    pass_fds=more,
                    start_new_session=True,
                )
            except OSError as error:
                found = await trio.to_thread.run_sync(_tell, launch, error)
                raise launch_error(launch, found) from error
        return GroupedChild(process, launch, self._grace_s)


def _environment(launch: Launch) -> dict[str, str]:
    return {_as_utf8(name): _as_utf8(value) for name, value in launch.env.items()}


def _as_utf8(string: str) -> str:
    """Return what the locale, whatever it is, encodes as ``string`` is in UTF-8."""
    return os.fsdecode(string.encode("utf-8", "surrogateescape"))


def _tell(launch: Launch, error: OSError) -> OSError:
    """Tell a command that is nowhere from one whose interpreter is."""
    missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
    if missing and any(map(os.path.exists, candidates(launch.argv[0], launch.env))):
        return OSError(NO_INTERPRETER, "no interpreter")
    return error


async def _attempt(removal: Removal) -> int:
    """Attempt a removal once, for ``ATTEMPT_S`` at most; return its exit code.

    A process with threads must not fork itself, so it is a new one.
    """
    what = map(_as_utf8, removal.what)
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _DISPOSE, _ROOT, *what]
    with trio.move_on_after(ATTEMPT_S), suppress(OSError):
        done = await trio.run_process(command, check=False, stdin=DEVNULL, stdout=DEVNULL)
        return done.returncode
    return disposal.FAILED
