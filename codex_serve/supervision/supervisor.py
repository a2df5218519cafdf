"""The supervisor: a process that runs one command at a time and leaves nothing of it.

It is the subreaper of all that the command starts. When the command exits, the
server says stop, the time limit passes, or the server is gone (the lifeline
ends), it asks the whole tree to end, kills what is left after the grace, and
says ``Clean`` only when the kernel says that there is no child left.

After that it has no child, no descriptor and no state of the run, and waits
for the next: starting a supervisor costs more than starting a command.

Standard library only: the fork server loads it before it forks.
"""

import math
import os
import select
import signal
import socket
import subprocess
import time
from typing import NoReturn

from codex_serve.supervision import kernel, tree, wire

FIRST_INTERVAL_S = 0.005
LAST_INTERVAL_S = 0.2
"""How long between two rounds of killing: longer each time, for what does not
die (a process that the kernel holds, or that is another user's)."""

LONGEST_WAIT_S = 86_400.0


class Wakeup:
    """A descriptor that becomes readable when a child ends."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)

    def __repr__(self) -> str:
        return f"<Wakeup fd={self.fd}>"

    def clear(self) -> None:
        """Make it unreadable until the next child ends."""
        os.read(self.fd, 4096)

    def close(self) -> None:
        """Give the descriptors back; another ``Wakeup`` has to be made."""
        signal.set_wakeup_fd(-1)
        os.close(self.fd)
        os.close(self._write_fd)


def supervise(lifeline: socket.socket, *, pid_namespace: bool) -> NoReturn:
    """Run commands until the server is gone, then exit.

    Args:
      lifeline: the connection to the server. Blocking.
      pid_namespace: put each command into a PID namespace of its own.
    """
    os.setsid()
    kernel.become_subreaper()
    wakeup = Wakeup()
    wire.send(lifeline, wire.Ready(os.getpid()))
    while True:
        message, fds = wire.receive(lifeline, max_fds=4)
        if message is None:
            os._exit(0)
        if not isinstance(message, wire.Start):
            continue  # a Stop that crossed the end of the command
        try:
            leader = _start(*fds, pid_namespace=pid_namespace)
        except OSError as error:
            wire.send(lifeline, wire.Failed(error.errno or 0))
            continue
        finally:
            for fd in fds:
                os.close(fd)
        _Watch(lifeline, wakeup, leader, message).run()
        if pid_namespace:
            os._exit(0)  # a process can make only one


def _start(stdin: int, stdout: int, stderr: int, spec_fd: int, *, pid_namespace: bool) -> int:
    """Start the command that the memfd holds; return its pid.

    Raises:
      OSError: it could not be executed.
    """
    spec = wire.read_spec(spec_fd)
    if pid_namespace:
        return _start_in_namespace(spec, (stdin, stdout, stderr))
    return _execute(spec, (stdin, stdout, stderr))


def _execute(spec: wire.Spec, stdio: tuple[int, int, int]) -> int:
    stdin, stdout, stderr = stdio
    # Python uses vfork for this, so a command costs less here than a fork would.
    process = subprocess.Popen(
        spec.argv,
        env=spec.env,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    process.returncode = 0  # the reaping is ours: Popen must not wait for it as well
    return process.pid


def _start_in_namespace(spec: wire.Spec, stdio: tuple[int, int, int]) -> int:
    """Start the command below the first process of a new PID namespace.

    When that process ends, by itself or with the supervisor, the kernel kills
    all others in the namespace, and its parent sees its end only after theirs.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    try:
        kernel.enter_pid_namespace()
        pid = os.fork()
        if pid == 0:
            _be_first_process(spec, stdio, tell)
        os.close(tell)
        tell = -1
        failure = os.read(told, 16)
    finally:
        os.close(told)
        if tell >= 0:
            os.close(tell)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), os.strerror(int(failure)))
    return pid


def _be_first_process(spec: wire.Spec, stdio: tuple[int, int, int], tell: int) -> NoReturn:
    """Start the command, reap what becomes ours, and end as the command does."""
    try:
        kernel.die_with_parent(signal.SIGKILL)
        kernel.mount_own_proc()
        leader = _execute(spec, stdio)
        for fd in (*stdio, tell):
            os.close(fd)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == leader:
                # A signal cannot be passed on: the first process survives it.
                os._exit(_shell_code(status))
    except OSError as error:
        os.write(tell, str(error.errno or 0).encode())
    finally:
        os._exit(1)


def _shell_code(wait_status: int) -> int:
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code


class _Watch:
    """One command, from its start until nothing of it is left."""

    def __init__(
        self, lifeline: socket.socket, wakeup: Wakeup, leader: int, start: wire.Start
    ) -> None:
        self._lifeline = lifeline
        self._wakeup = wakeup
        self._leader = leader
        self._grace_s = start.grace_s
        self._deadline = time.monotonic() + start.limit_s
        self._leader_status: int | None = None
        self._timed_out = False
        self._server_gone = False
        self._stop = False

    def __repr__(self) -> str:
        return f"<_Watch leader={self._leader} status={self._leader_status}>"

    def run(self) -> None:
        """Watch until the tree is gone and say so; exit if the server is gone."""
        terminator = tree.Terminator()
        kill_at = math.inf
        interval_s = FIRST_INTERVAL_S
        while tree.reap(self._on_exit):
            now = time.monotonic()
            self._timed_out |= self._leader_status is None and now >= self._deadline
            if kill_at == math.inf and self._must_end():
                kill_at = now + self._grace_s
            if kill_at == math.inf:
                self._wait(self._deadline - now)
            elif now < kill_at:
                terminator.ask()
                self._wait(kill_at - now)
            else:
                tree.kill_descendants()
                self._wait(interval_s)
                interval_s = min(2 * interval_s, LAST_INTERVAL_S)
        if self._server_gone:
            os._exit(0)
        assert self._leader_status is not None  # it was our child, and we have none left
        wire.send(self._lifeline, wire.Clean(self._leader_status, self._timed_out))

    def _must_end(self) -> bool:
        return self._leader_status is not None or self._timed_out or self._stop or self._server_gone

    def _on_exit(self, pid: int, status: int) -> None:
        if pid == self._leader:
            self._leader_status = status

    def _wait(self, seconds: float) -> None:
        """Wait for a child to end, for the server to say something, or for ``seconds``."""
        sources: list[int] = [self._wakeup.fd]
        if not self._server_gone:
            sources.append(self._lifeline.fileno())
        ready, _, _ = select.select(sources, [], [], min(max(seconds, 0), LONGEST_WAIT_S))
        if self._wakeup.fd in ready:
            self._wakeup.clear()
        if self._lifeline.fileno() in ready:
            message, _ = wire.receive(self._lifeline)
            self._server_gone = message is None
            self._stop = True
