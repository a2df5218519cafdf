"""The server's side of supervision: the fork server and a pool of supervisors.

A supervisor serves one run after the other. Those that wait are kept here, up
to ``MAX_IDLE``, and one is forked ahead, so that starting a run is one message.
"""

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

import codex_serve
from codex_serve.core.errors import SERVER_FAILED, ChildLostError, LaunchError
from codex_serve.core.execution import Ended
from codex_serve.processes import messages, tree
from codex_serve.processes.command import Launch, Removal
from codex_serve.processes.exec_errors import file_of, launch_error, making_room, no_room_error
from codex_serve.processes.keeper import keep
from codex_serve.processes.lookup import few_candidates
from codex_serve.processes.removal_limits import GIVE_UP_S, LONGEST_REMOVAL_S
from codex_serve.processes.remover import Remover

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_IDLE = 16
"""The most supervisors that wait for a run. Each has about 0.6 MB of its own."""

HELD_S = 5.0
"""How long after SIGKILL a process may still be there before its run goes on
without it. The kernel holds a process that waits for a disk or a network file."""

ORPHANS_S = 2.0
"""How long what a killed supervisor left may take to be gone."""

ANSWER_S = 5.0
"""How long a supervisor or the fork server may take to answer what it answers at
once. Far longer than a busy machine makes it wait, for then it is killed."""

ORPHAN_INTERVAL_S = 0.005
RESTART_S = 0.05
ATTEMPTS = 3

_NO_SUPERVISOR = "The server cannot start a supervisor for the command."

_NO_PROC = (
    "/proc does not show the processes below this one: it must be mounted, for this PID namespace, "
    "by a kernel that has /proc/PID/task/TID/children (CONFIG_PROC_CHILDREN)"
)

_BOOT = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from codex_serve.processes.fork_server import main; "
    "main(int(sys.argv[2]), list(map(int, sys.argv[4:])), pid_namespace=sys.argv[3] == 'pidns')"
)


class Supervisor:
    """The lifeline to one supervisor process. Closing it ends the process."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._to_be_checked = False
        self.pid = 0

    def __repr__(self) -> str:
        return f"<Supervisor pid={self.pid}>"

    def send(self, message: messages.Message, fds: tuple[int, ...] = ()) -> None:
        """Send a message. Raises ``OSError`` when the process is gone."""
        messages.send(self._sock, message, fds)

    async def receive(self) -> messages.Message:
        """Wait for a message; ``messages.GONE`` when the process is gone."""
        message = await _receive(self._sock)
        if message and message[0] == messages.CLEAN:
            self._to_be_checked = True
        return message

    async def is_as_new(self) -> bool:
        """Return whether the next command would find what the last one found.

        It has been said since the last one ended, so this hardly ever waits.
        """
        if not self._to_be_checked:
            return True
        self._to_be_checked = False
        try:
            return messages.receive_verdict(self._sock)
        except BlockingIOError:
            pass
        with trio.move_on_after(ANSWER_S):
            await trio.lowlevel.wait_readable(self._sock)
            return messages.receive_verdict(self._sock)
        self.kill()
        return False

    def stop(self) -> None:
        """Say that the command is to end, also to one that somebody has stopped."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process: the subreaper above it ends its command."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        # The process ID is its own, and nobody else's by now: what is sent arrives.
        with suppress(OSError):  # it is gone, as waiting for it says
            self.send((messages.STOP,))
            tree.send(self.pid, number)

    def close(self) -> None:
        """Hang up: the supervisor ends what it has and exits."""
        self._sock.close()


class SupervisedChild:
    """A command below a supervisor. See ``Child``."""

    def __init__(self, supervisor: Supervisor, launch: Launch, pool: "SupervisorPool") -> None:
        self._supervisor = supervisor
        self._launch = launch
        self._pool = pool
        self._over = False
        self._removing = False
        self._given_up = False

    def __repr__(self) -> str:
        return f"<SupervisedChild of {self._supervisor!r}{' over' if self._over else ''}>"

    async def wait(self) -> Ended:
        """See ``Child.wait``."""
        while (ended := await self._receive()) is None:
            self._removing = True
        return ended

    async def _receive(self) -> Ended | None:
        """Wait for what the supervisor says next: how the command ended, or ``ENDING``.

        Raises:
          LaunchError, ChildLostError: see ``Child.wait``.
        """
        match await self._supervisor.receive():
            case (messages.ENDING,):
                return None
            case (messages.CLEAN, wait_status, timed_out, removed):
                self._over = True
                if not removed and self._launch.removal is not None:
                    self._pool.remover.add(self._launch.removal)
                return Ended(os.waitstatus_to_exitcode(wait_status), timed_out)
            case (messages.FAILED, number):
                self._over = True
                error = OSError(number, os.strerror(number))
                raise launch_error(self._launch, error)
            case _:
                self._given_up = True  # what follows is all that can be done
                with trio.CancelScope(shield=True):
                    await self._pool.wait_for_orphans(self._supervisor.pid)
                    removal = self._launch.removal
                    if removal is not None and not await self._pool.remove(removal, GIVE_UP_S):
                        self._pool.remover.add(removal)
                raise ChildLostError("The run's supervisor was killed: the run is lost.")

    async def end(self) -> None:
        """See ``Child.end``. A supervisor that is not heard from is killed."""
        if self._over or self._given_up:
            return
        patience_s = self._pool.grace_s + HELD_S
        if self._launch.removal is not None:
            patience_s += LONGEST_REMOVAL_S
        with suppress(LaunchError, ChildLostError):  # there is nothing left that could be ended
            heard = await self._is_heard() or self._removing
            if heard and not self._over:
                with trio.move_on_after(patience_s):
                    await self.wait()
                heard = self._over or await self._is_heard()
            if not heard:
                logger.error("supervisor %d does not answer: killed", self._supervisor.pid)
                self._supervisor.kill()
                with trio.move_on_after(HELD_S):
                    await self.wait()
            if not self._over:
                self._given_up = True
                logger.error(
                    "supervisor %d: some processes of a run do not end", self._supervisor.pid
                )

    async def close(self) -> None:
        """See ``Child.close``."""
        if not self._over:
            with trio.CancelScope(shield=True):
                await self.end()
        self._pool.give_back(self._supervisor, reusable=self._over)

    async def _is_heard(self) -> bool:
        """Say that the command is to end; return whether anything is said to that."""
        self._supervisor.stop()
        with trio.move_on_after(ANSWER_S):
            await self._receive()
            return True
        return False


class SupervisorPool:
    """A ``Starter`` that leaves nothing. Made by ``open_pool``."""

    def __init__(
        self,
        grace_s: float,
        *,
        pid_namespace: bool,
        max_files: int,
        lease_fd: int | None,
    ) -> None:
        self.grace_s = grace_s
        self._max_files = max_files
        self._lease_fds = [] if lease_fd is None else [lease_fd]
        self._pid_namespace = pid_namespace
        self._idle: list[Supervisor] = []
        self._known: set[int] = set()
        self._none_idle = trio.Event()
        self._resumer = tree.Resumer()
        self._control: socket.socket | None = None
        self._trusted: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._tried = trio.Event()
        self._asking = trio.Lock()
        self._heard_at = 0.0
        self._fork_server_died = False
        self._has_forked = False
        self._orphans: dict[int, trio.Event] = {}
        self.remover = Remover(self._remove_once)

    def __repr__(self) -> str:
        return f"<SupervisorPool {len(self._known)} supervisors, {len(self._idle)} idle>"

    async def start(
        self, launch: Launch, stdio: tuple[int, ...], limit_s: float
    ) -> SupervisedChild:
        """See ``Starter.start``."""
        start = (messages.START, limit_s, self.grace_s, _spec(launch))
        with file_of(launch) as more:
            supervisor = await self._hand_over(start, (*stdio, *more))
        return SupervisedChild(supervisor, launch, self)

    async def _hand_over(
        self, message: messages.Message, stdio: tuple[int, ...] = ()
    ) -> Supervisor:
        """Send a message to a supervisor that lives and waits; return that.

        Raises:
          LaunchError: it cannot be sent to any.
        """
        while True:
            supervisor = self._idle.pop() if self._idle else await self.fork()
            if await self._send(supervisor, message, stdio):
                return supervisor

    async def _send(
        self, supervisor: Supervisor, message: messages.Message, stdio: tuple[int, ...]
    ) -> bool:
        """Send a message to one that waits; return whether that can be done.

        Raises:
          LaunchError: it can be sent to none.
        """
        as_new = sent = False
        try:
            as_new = await supervisor.is_as_new()
            if as_new:
                supervisor.send(message, stdio)
                sent = True
        except ConnectionError:  # it was killed while it waited
            as_new = False
        except OSError as error:
            raise no_room_error(error) from error
        finally:
            if not sent:
                self.give_back(supervisor, reusable=as_new)
        if sent and not self._idle:
            self._none_idle.set()
        return sent

    def give_back(self, supervisor: Supervisor, *, reusable: bool) -> None:
        """Keep a supervisor for the next run, or end it."""
        if reusable and len(self._idle) < MAX_IDLE:
            self._idle.append(supervisor)
        else:
            self._known.discard(supervisor.pid)
            self._orphans.pop(supervisor.pid, None)
            supervisor.close()

    async def fork_ahead(self) -> None:
        """Have one supervisor waiting, outside of the path of a run. A task of the pool.

        Raises:
          LaunchError: there is none to be had.
        """
        while True:
            while self._idle:
                self._none_idle = trio.Event()
                await self._none_idle.wait()
            self.give_back(await self.fork(), reusable=True)

    async def fork(self) -> Supervisor:
        """Get a new supervisor from the fork server.

        Raises:
          LaunchError: there is none to be had.
        """
        for _ in range(ATTEMPTS):
            with making_room():
                ours, theirs = messages.make_pair()
            supervisor = Supervisor(ours)
            try:
                with theirs:
                    asked = await self._answered(partial(self._send_fork, theirs.fileno()))
                message = await self._answered(supervisor.receive)
            except BaseException:
                supervisor.close()
                raise
            self._heard_at = trio.current_time()
            # One whose fork server is known to be dead is an orphan that we did not
            # know: ``reap_orphans`` may be killing it.
            if message != messages.GONE and asked is self._trusted:
                _, supervisor.pid = message
                self._known.add(supervisor.pid)
                self._has_forked = True
                return supervisor
            supervisor.close()
        raise LaunchError(SERVER_FAILED, _NO_SUPERVISOR)

    async def _answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Wait for what the fork server has to do, and kill it when it is not heard from.

        Its successor does it then, or the end of its sockets is the answer. What is
        asked may be behind a thousand other forks; each of them is heard.
        """
        while True:
            with trio.move_on_after(ANSWER_S):
                return await ask()
            if trio.current_time() >= self._heard_at + ANSWER_S:
                self._kill_fork_server()

    def _kill_fork_server(self) -> None:
        """Kill the fork server, so that another one is started; it may be dead already."""
        if self._trusted is not None and self._process is not None:
            logger.error("the fork server does not answer: killed")
            tree.send(self._process.pid, signal.SIGKILL)  # which is not reaped: it is trusted

    async def _send_fork(self, lifeline_fd: int) -> socket.socket:
        """Ask the fork server, or the next one where it is dead; return the one asked.

        Raises:
          LaunchError: there is none, or no room to ask it.
        """
        async with self._asking:  # only one task can wait for room in a socket
            while True:
                if self._control is None:
                    await self._tried.wait()
                if (control := self._control) is None:
                    raise LaunchError(SERVER_FAILED, _NO_SUPERVISOR)
                try:
                    messages.send(control, (messages.FORK,), (lifeline_fd,))
                    return control
                except BlockingIOError:
                    with suppress(trio.ClosedResourceError):
                        await trio.lowlevel.wait_writable(control)
                except ConnectionError:  # it is dead, and its successor not there yet
                    await trio.sleep(RESTART_S)
                except OSError as error:
                    raise no_room_error(error) from error

    async def keep_fork_server(self) -> None:
        """Listen to the fork server, and start another when it ends. A task of the pool.

        One that has made a supervisor is replaced at once: whoever kills it again and
        again must not make others wait longer each time.

        Raises:
          LaunchError: none can be started.
          ChildLostError: it died before it made a supervisor.
        """
        while True:
            if self._control is None:
                try:
                    self.launch_fork_server()
                finally:
                    self._tried.set()
            assert self._control is not None
            try:
                await self._listen(self._control)
            except Exception:
                self._drop_fork_server()
                raise
            self._drop_fork_server()
            if not self._has_forked:
                raise ChildLostError("the fork server died")
            logger.error("the fork server died; starting another")
            await trio.sleep(RESTART_S)

    def _drop_fork_server(self) -> None:
        """Do without the fork server, because it is dead or cannot be heard."""
        assert self._control is not None
        self._fork_server_died = True
        self._trusted = None
        trio.lowlevel.notify_closing(self._control)
        self._control.close()
        self._control = None
        self._tried = trio.Event()

    def launch_fork_server(self) -> None:
        """Start the fork server.

        Raises:
          LaunchError: it cannot be started.
        """
        with making_room():
            ours, theirs = messages.make_pair()
        ours.setblocking(False)
        root = Path(codex_serve.__file__).parent.parent
        isolation = "pidns" if self._pid_namespace else "subreaper"
        boot = [_BOOT, str(root), str(theirs.fileno()), isolation, *map(str, self._lease_fds)]
        try:
            with theirs, making_room():
                # Its standard error is ours: a traceback of its own must reach somebody.
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-X", "utf8", "-c", *boot],
                    pass_fds=[theirs.fileno(), *self._lease_fds],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
                # Before its first fork, so that all that comes of it has the limit.
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE, (self._max_files, hard))
        except BaseException:
            ours.close()  # which also ends what has been started
            raise
        self._control = self._trusted = ours
        self._heard_at = trio.current_time()
        self._has_forked = False

    async def _listen(self, control: socket.socket) -> None:
        """Take in what the fork server says until it is gone."""
        while (message := await _receive(control)) != messages.GONE:
            _, pid = message
            self._orphans_gone(pid)

    async def close(self) -> None:
        """Remove what can be, end the supervisors that wait, then the fork server.

        Returns when they are gone. The tasks of the pool have ended.
        """
        await self.remover.finish()
        for supervisor in self._idle:
            supervisor.close()
        self._idle.clear()
        if self._control is not None and self._process is not None:
            with suppress(OSError):  # it has just died
                self._control.shutdown(socket.SHUT_WR)
            with trio.move_on_after(HELD_S) as patience:
                await self._listen(self._control)  # its end of file is the fork server's end
            self._control.close()
            if patience.cancelled_caught:
                logger.error("the fork server stays for processes that do not end")
            else:
                self._process.wait()

    async def wait_for_orphans(self, pid: int) -> None:
        """Wait until what the killed supervisor ``pid`` left is gone, for a while."""
        gone = self._orphans.setdefault(pid, trio.Event())
        # Who is traced by an orphan is reaped by nobody before that is killed, so that
        # nobody else has to be told; the orphan may be a child of ours.
        if self._control is not None:
            with suppress(OSError):
                messages.send(self._control, (messages.LOST, pid))
        signal.raise_signal(signal.SIGCHLD)
        with trio.move_on_after(ORPHANS_S):
            await gone.wait()
        if not gone.is_set():
            with suppress(LaunchError):  # the fork server is killed where it does not answer
                self.give_back(await self.fork(), reusable=True)
            with trio.move_on_after(ORPHANS_S):
                await gone.wait()

    async def remove(self, removal: Removal, give_up_s: float) -> bool:
        """Have something removed whose command is dead; return whether nothing is left."""
        message = messages.GONE
        order = (messages.REMOVE, give_up_s, (removal.what, removal.awaited))
        while message == messages.GONE:
            try:
                supervisor = await self._hand_over(order)
            except LaunchError:
                break
            try:
                message = await supervisor.receive()
            finally:
                self.give_back(supervisor, reusable=message != messages.GONE)
        match message:
            case (messages.CLEAN, _, _, removed):
                return bool(removed)
            case _:
                return False

    async def _remove_once(self, removal: Removal) -> bool:
        """Try once to remove something. See ``Remover``."""
        return await self.remove(replace(removal, awaited=False), 0.0)

    def _orphans_gone(self, pid: int) -> None:
        if pid in self._known:
            self._orphans.setdefault(pid, trio.Event()).set()

    async def reap_orphans(self) -> None:
        """Reap what the server inherits, and kill it where it is ours.

        For a process that is a subreaper or the main process of a container.
        Orphans of a run come here only when its supervisor and the fork server
        are both dead: then they are killed. Before that, an unknown child is
        somebody else's, such as that of a ``docker exec``, and is only reaped.
        """
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            while True:
                ended, _ = tree.reap(self._resume)
                if self._process is not None and self._process.pid in ended:
                    self._trusted = None  # perhaps before its end of file was seen
                while self._fork_server_died and self._kill_orphans():
                    await trio.sleep(ORPHAN_INTERVAL_S)
                    ended |= tree.reap(self._resume)[0]
                for pid in self._known.intersection(ended):
                    self._orphans_gone(pid)
                await anext(signals)

    def _resume(self, pid: int) -> None:
        """Let the fork server go on, or a supervisor of a dead one, that somebody has stopped."""
        if pid in self._known or (self._process is not None and pid == self._process.pid):
            self._resumer.resume(pid)

    def _kill_orphans(self) -> bool:
        """Kill the children that are unknown; return whether there were, or may be, any."""
        spare = set(self._known)
        if self._process is not None:
            spare.add(self._process.pid)
        try:
            return tree.kill_orphans(spare)
        except OSError:  # there is no room for a look now
            return True


@asynccontextmanager
async def open_pool(
    grace_s: float, *, pid_namespace: bool, max_files: int, lease_fd: int | None = None
) -> AsyncIterator[SupervisorPool]:
    """Start a fork server and one supervisor, and end them when left.

    Args:
      grace_s: seconds between SIGTERM and SIGKILL.
      pid_namespace: put each command into a PID namespace of its own.
      max_files: the soft limit of open files for commands.
      lease_fd: a descriptor that the fork server and the supervisors hold while they live.

    Raises:
      LaunchError: no supervisor could be started, or what is below it would not be seen.
    """
    pool = SupervisorPool(
        grace_s, pid_namespace=pid_namespace, max_files=max_files, lease_fd=lease_fd
    )
    pool.launch_fork_server()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep, "running the fork server", pool.keep_fork_server)
            supervisor = await pool.fork()
            pool.give_back(supervisor, reusable=True)
            if supervisor.pid not in tree.descendants(os.getpid()):
                raise LaunchError(SERVER_FAILED, _NO_PROC)
            nursery.start_soon(keep, "forking a supervisor ahead", pool.fork_ahead)
            nursery.start_soon(keep, "removing what runs have left", pool.remover.run)
            yield pool
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await pool.close()


def _spec(launch: Launch) -> messages.Spec:
    removal = launch.removal
    return (
        few_candidates(launch.argv[0], launch.env),
        launch.argv,
        dict(launch.env),
        (removal.what, removal.awaited) if removal else None,
    )


async def _receive(sock: socket.socket) -> messages.Message:
    while True:
        try:
            return messages.receive(sock)[0]
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
