"""The fork server: a small process that forks supervisors for the server.

It stays small so that a fork is cheap, single-threaded so that a fork is safe,
and in a session of its own so that nobody's Ctrl-C meets it. It is a subreaper:
what a killed supervisor leaves behind becomes its child, and it kills that.

It watches the supervisors as the server watches it: one that somebody stops goes on
at once, and one that is stopped again and again is killed.

It ends when the server is gone and its last child is.

Standard library only; run by ``python -I -S`` (see ``pool.py``).
"""

import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

from codex_serve.processes import linux, messages, traits, tree
from codex_serve.processes.supervisor import open_wakeup, supervise, wait

ORPHAN_INTERVAL_S = 0.005
LOOK_S = 1.0
"""How often to look at the supervisors when the server is gone."""


def main(control_fd: int, lease_fds: Sequence[int], *, pid_namespace: bool) -> None:
    """Serve ``messages.FORK`` messages on ``control_fd`` until the server is gone.

    ``lease_fds`` stay open here and in every supervisor, for what that means to others.
    """
    os.setsid()
    for fd in lease_fds:
        os.set_inheritable(fd, False)  # commands are not to hold them
    linux.become_subreaper()
    linux.signal_at_parents_end(signal.SIGCONT)  # who is stopped then would stay for ever
    _set_signals()
    gc.collect()
    gc.freeze()
    gc.disable()  # a collection in a child would write to every page that it shares
    _ForkServer(socket.socket(fileno=control_fd), pid_namespace=pid_namespace).run()


def _set_signals() -> None:
    """Set signals for supervisors and commands, whatever the server's parent did.

    Those that say "end" end no supervisor: a service manager that stops the
    server may send SIGTERM to all its processes, and those that clean up must
    be the last to go.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    # Handled, not ignored: what is ignored stays so in a command. SIGCHLD needs
    # a handler to wake anybody up.
    for number in (
        *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
        *(signal.SIGPIPE, signal.SIGCHLD),
    ):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _ForkServer:
    """The supervisors that it forked, and the orphans that it inherited."""

    def __init__(self, control: socket.socket, *, pid_namespace: bool) -> None:
        self._control = control
        self._pid_namespace = pid_namespace
        self._wakeup = open_wakeup()
        self._supervisors: set[int] = set()
        self._resumer = tree.Resumer()
        self._pristine: traits.Traits | None = None
        self._killed: list[int] = []
        self._server_gone = False

    def __repr__(self) -> str:
        return f"<_ForkServer {len(self._supervisors)} supervisors>"

    def run(self) -> None:
        """Fork, reap, and kill orphans, until there is nobody to do it for."""
        while self._reap() or not self._server_gone:
            wait_s = LOOK_S if self._server_gone else None
            if self._killed:
                wait_s = ORPHAN_INTERVAL_S
                with suppress(OSError):  # there is no room for a look now
                    if not tree.kill_orphans(self._supervisors):
                        wait_s = LOOK_S if self._server_gone else None
                        self._report()
            if self._server_gone:
                self._look_at_supervisors()
            if wait(self._wakeup[0], None if self._server_gone else self._control, wait_s):
                try:
                    message, fds = messages.receive(self._control, max_fds=1)
                except OSError:  # no more descriptors: the server sees its lifeline end
                    continue
                if message == messages.GONE:
                    self._server_gone = True
                elif message[0] == messages.LOST:
                    self._lose(message[1])
                else:
                    self._fork(*fds)

    def _reap(self) -> bool:
        """Take note of supervisors that have ended; return whether children are left."""
        ended, left = tree.reap(self._resume)
        for pid in self._supervisors.intersection(ended):
            self._supervisors.discard(pid)
            if ended[pid] != 0:
                self._killed.append(pid)
        return left

    def _lose(self, pid: int) -> None:
        """Take note of a supervisor that is dead but not for us to reap: its orphan traces it."""
        if pid in self._supervisors:
            self._supervisors.discard(pid)
            self._killed.append(pid)

    def _look_at_supervisors(self) -> None:
        """Kill those that their command traces: there is no server to notice their silence."""
        for pid in tuple(self._supervisors):
            match tree.state(pid):
                case "t":
                    tree.send(pid, signal.SIGKILL)
                case "Z":
                    self._lose(pid)

    def _resume(self, pid: int) -> None:
        """Let a supervisor go on that was stopped. Orphans are killed as they are."""
        if pid in self._supervisors:
            self._resumer.resume(pid)

    def _report(self) -> None:
        """Tell the server that no orphan of the killed supervisors is left."""
        killed, self._killed = self._killed, []
        if not self._server_gone:
            with suppress(OSError):  # it has just gone; the next look at the socket tells
                for pid in killed:
                    messages.send(self._control, (messages.ORPHANS_GONE, pid))

    def _fork(self, lifeline_fd: int) -> None:
        try:
            own = _own_traits()
            if self._pristine is None:  # not before the server has set our limits
                self._pristine = own
            if own != self._pristine:
                os._exit(1)  # a command has changed us: the server starts another
            pid = os.fork()
        except OSError:  # no more processes or descriptors: the server sees its lifeline end
            os.close(lifeline_fd)
            return
        if pid == 0:
            try:
                self._control.close()
                for fd in self._wakeup:
                    os.close(fd)
                lifeline = socket.socket(fileno=lifeline_fd)
                supervise(lifeline, self._pristine, pid_namespace=self._pid_namespace)
            except OSError:
                pass  # the server has gone in the middle of a sentence
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(1)
        self._supervisors.add(pid)
        os.close(lifeline_fd)


def _own_traits() -> traits.Traits:
    fds = traits.open_files()
    try:
        return traits.read(fds)
    finally:
        traits.close(fds)
