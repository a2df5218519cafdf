"""The fork server: a small process that forks supervisors for the server.

It stays small so that a fork is cheap, single-threaded so that a fork is safe,
and in a session of its own so that nobody's Ctrl-C meets it. It is a subreaper:
what a killed supervisor leaves behind becomes its child, and it kills that.

It ends when the server is gone and its last child is.

Standard library only; run by ``python -I -S`` (see ``pool.py``).
"""

import gc
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress

from codex_serve.supervision import kernel, tree, wire
from codex_serve.supervision.supervisor import Wakeup, supervise

ORPHAN_INTERVAL_S = 0.005


def main(control_fd: int, *, pid_namespace: bool) -> None:
    """Serve ``wire.Fork`` messages on ``control_fd`` until the server is gone."""
    os.setsid()
    kernel.become_subreaper()
    _default_signals()
    gc.collect()
    gc.freeze()  # a collection in a child would write to every page that it shares
    _ForkServer(socket.socket(fileno=control_fd), pid_namespace=pid_namespace).run()


def _default_signals() -> None:
    """Give commands the signal settings of a fresh process, whatever ours were.

    The signals that say "end" must end neither this process nor a supervisor,
    and yet be at their defaults in a command: an exec keeps an ignored signal
    ignored and resets a handled one.
    """
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # Popen gives it back to commands
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


class _ForkServer:
    """The supervisors that it forked, and the orphans that it inherited."""

    def __init__(self, control: socket.socket, *, pid_namespace: bool) -> None:
        self._control = control
        self._pid_namespace = pid_namespace
        self._wakeup = Wakeup()
        self._supervisors: set[int] = set()
        self._killed: list[int] = []
        self._server_gone = False

    def __repr__(self) -> str:
        return f"<_ForkServer {len(self._supervisors)} supervisors>"

    def run(self) -> None:
        """Fork, reap, and kill orphans, until there is nobody to do it for."""
        while tree.reap(self._on_exit) or not self._server_gone:
            wait_s = None
            if self._killed:
                if any(child not in self._supervisors for child in tree.children(os.getpid())):
                    tree.kill_descendants(spare=self._supervisors)
                    wait_s = ORPHAN_INTERVAL_S
                else:
                    self._report()
            self._wait(wait_s)

    def _on_exit(self, pid: int, status: int) -> None:
        if pid in self._supervisors:
            self._supervisors.discard(pid)
            if status != 0:
                self._killed.append(pid)

    def _report(self) -> None:
        """Tell the server that no orphan of the killed supervisors is left."""
        killed, self._killed = self._killed, []
        if not self._server_gone:
            with suppress(OSError):  # it has just gone; the next look at the socket tells
                for pid in killed:
                    wire.send(self._control, wire.OrphansGone(pid))

    def _wait(self, seconds: float | None) -> None:
        sources: list[int] = [self._wakeup.fd]
        if not self._server_gone:
            sources.append(self._control.fileno())
        ready, _, _ = select.select(sources, [], [], seconds)
        if self._wakeup.fd in ready:
            self._wakeup.clear()
        if self._control.fileno() in ready:
            message, fds = wire.receive(self._control, max_fds=1)
            if message is None:
                self._server_gone = True
            else:
                self._fork(*fds)

    def _fork(self, lifeline_fd: int) -> None:
        try:
            pid = os.fork()
        except OSError:  # no more processes: the server sees its lifeline end
            os.close(lifeline_fd)
            return
        if pid == 0:
            try:
                self._control.close()
                self._wakeup.close()
                supervise(socket.socket(fileno=lifeline_fd), pid_namespace=self._pid_namespace)
            except OSError:
                pass  # the server has gone in the middle of a sentence
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(1)
        self._supervisors.add(pid)
        os.close(lifeline_fd)
