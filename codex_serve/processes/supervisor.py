"""The supervisor: a process that runs one command at a time and leaves nothing of it.

It is the subreaper of all that the command starts. When the command exits, the
server says stop, the time limit passes, or the server is gone (the lifeline
ends), it asks the whole tree to end, kills what is left after the grace, and
says ``CLEAN`` only when the kernel says that there is no child left, and when
what the command made elsewhere, such as a container, is removed.

After that it has no child, no descriptor and no state of the run, and waits
for the next: starting a supervisor costs more than starting a command.

Standard library only: the fork server loads it before it forks.
"""

import errno
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from codex_serve.processes import disposal, linux, messages, traits, tree
from codex_serve.processes.lookup import MANY, NO_INTERPRETER, candidates
from codex_serve.processes.removal_limits import (
    ATTEMPT_S,
    ENDING_S,
    FIRST_INTERVAL_S,
    GIVE_UP_S,
    GOING_ON_S,
    LAST_INTERVAL_S,
    watch_s,
)

Program = tuple[messages.Names, messages.Names, dict[str, str]]
"""The places to try in turn, none where they are many; the arguments; the environment."""

LONGEST_WAIT_S = 86_400.0


def open_wakeup() -> tuple[int, int]:
    """Make a pipe whose reading end becomes readable when a child ends.

    Returns:
      The reading and the writing end, both to be closed by the caller.
    """
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd, write_fd


def wait(wakeup_fd: int, sock: socket.socket | None, seconds: float | None) -> bool:
    """Wait for a child to end, for a message on ``sock``, or for ``seconds``.

    Returns:
      Whether ``sock`` has something to be received.
    """
    poll = select.poll()  # not select.select, which takes no descriptor above 1,023
    poll.register(wakeup_fd, select.POLLIN)
    if sock is not None:
        poll.register(sock, select.POLLIN)
    ready = False
    for fd, _ in poll.poll(None if seconds is None else max(0.0, seconds * 1000)):
        if fd == wakeup_fd:
            os.read(wakeup_fd, 4096)
        else:
            ready = True
    return ready


def supervise(lifeline: socket.socket, pristine: traits.Traits, *, pid_namespace: bool) -> NoReturn:
    """Run commands until the server is gone, then exit.

    Args:
      lifeline: the connection to the server. Blocking.
      pristine: the traits that commands are to be started with.
      pid_namespace: put each command into a PID namespace of its own.
    """
    fork_server = os.getppid()
    os.setsid()
    linux.become_subreaper()
    linux.signal_at_parents_end(signal.SIGCONT)  # for it is the parent that resumes us
    wakeup_fd, _ = open_wakeup()
    files: list[int] = []
    messages.send(lifeline, (messages.READY, os.getpid()))
    while True:
        try:
            message, fds = messages.receive(lifeline, max_fds=4)
        except OSError as error:
            messages.send(lifeline, (messages.FAILED, error.errno or 0))
            continue
        if message == messages.GONE:
            _leave(fork_server)
        if message[0] == messages.STOP:
            continue  # it crossed the end of the command
        give_up_s = GIVE_UP_S
        if message[0] == messages.REMOVE:
            _, give_up_s, removal = message
            status, timed_out, server_gone = int(signal.SIGKILL), False, False
        else:
            _, limit_s, grace_s, (paths, argv, env, removal) = message
            try:
                start = _start_in_namespace if pid_namespace else _execute
                leader = start((paths, argv, env), fds, lifeline)
            except OSError as error:
                with suppress(ConnectionError):  # the server is gone, as we hear next
                    messages.send(lifeline, (messages.FAILED, error.errno or 0))
                continue
            finally:
                for fd in fds:
                    os.close(fd)
            awaited = removal[0] if removal is not None and removal[1] else None
            status, timed_out, server_gone = _watch(
                lifeline, wakeup_fd, leader, limit_s, grace_s, awaited
            )
            if removal is not None:
                with suppress(ConnectionError):  # the server is gone, as we know or hear later
                    messages.send(lifeline, (messages.ENDING,))
        removed = removal is None or _remove(wakeup_fd, removal, status, give_up_s)
        if server_gone:
            _leave(fork_server)
        messages.send(lifeline, (messages.CLEAN, status, timed_out, removed))
        try:
            files = files or traits.open_files()
            unchanged = traits.read(files) == pristine
        except OSError:  # the command has left us no descriptors
            unchanged = False
        with suppress(ConnectionError):  # the server is gone, as we hear next
            messages.send_verdict(lifeline, unchanged=unchanged)


def _leave(fork_server: int) -> NoReturn:
    """Exit, because the server is gone.

    Nobody is left then to let a stopped fork server go on, which has yet to reap us.
    """
    if os.getppid() == fork_server:
        tree.send(fork_server, signal.SIGCONT)
    os._exit(0)


def _watch(
    lifeline: socket.socket | None,
    wakeup_fd: int,
    leader: int,
    limit_s: float,
    grace_s: float,
    awaited: messages.Names | None = None,
) -> tuple[int, bool, bool]:
    """Watch the tree of ``leader`` until it is gone, ending it when that is due.

    Args:
      lifeline: what the server says; ``None`` to let it say nothing.
      wakeup_fd: see ``open_wakeup``.
      leader: the process whose end is the command's.
      limit_s: how long it may run.
      grace_s: how long it may take to end.
      awaited: what it waits for. Removing that ends it, in place of SIGTERM, and
        is tried again and again until it has.

    Returns:
      The leader's wait status, whether its time was up, and whether the server
      is gone.
    """
    ending: tree.Terminator | None = None
    kill_at: float | None = None
    timed_out = server_gone = stop = False
    leader_status: int | None = None
    removing: int | None = None
    deadline = time.monotonic() + limit_s
    interval_s = FIRST_INTERVAL_S
    while True:
        ended, left = tree.reap()
        leader_status = ended.get(leader, leader_status)
        if removing in ended:
            removing = None
        if not left:
            break
        now = time.monotonic()
        if leader_status is None and now >= deadline:
            timed_out = True
        if kill_at is None and (leader_status is not None or timed_out or stop):
            kill_at = now + (grace_s if awaited is None else ENDING_S)
            ending = tree.Terminator()
        if kill_at is None or ending is None:
            wait_s = min(deadline - now, LONGEST_WAIT_S)
        elif now < kill_at and awaited is not None and leader_status is None:
            if removing is None:
                removing = disposal.begin(awaited)
            wait_s = LAST_INTERVAL_S
        elif now < kill_at:
            ending.ask(leader if leader_status is None else None)
            wait_s = min(kill_at - now, LONGEST_WAIT_S)
        else:
            tree.kill_descendants(leader=leader if leader_status is None else None)
            wait_s = interval_s
            interval_s = min(2 * interval_s, LAST_INTERVAL_S)
        if wait(wakeup_fd, lifeline, wait_s) and lifeline is not None:
            message, _ = messages.receive(lifeline)
            stop = True
            if message == messages.GONE:
                server_gone, lifeline = True, None
            else:
                with suppress(ConnectionError):
                    messages.send(lifeline, (messages.ENDING,))
    assert leader_status is not None  # it was a child, and there is none left
    return leader_status, timed_out, server_gone


def _remove(
    wakeup_fd: int,
    removal: messages.Removal,
    wait_status: int,
    give_up_s: float,
) -> bool:
    """Remove what a command that is gone has left elsewhere; see ``command.Removal``.

    Args:
      wakeup_fd: see ``open_wakeup``.
      removal: what.
      wait_status: how the command ended.
      give_up_s: how long it may get nowhere.

    Returns:
      Whether nothing is left.
    """
    what, awaited = removal
    to_watch_s = watch_s(os.waitstatus_to_exitcode(wait_status), awaited=awaited)
    if to_watch_s is None:
        return True
    now = time.monotonic()
    watch_until = now + to_watch_s
    give_up_at = watch_until + give_up_s
    give_up_late_at = give_up_at + GOING_ON_S
    interval_s = FIRST_INTERVAL_S
    while True:
        status = disposal.FAILED
        if (pid := disposal.begin(what)) is not None:
            status = os.waitstatus_to_exitcode(_watch(None, wakeup_fd, pid, ATTEMPT_S, 0.0)[0])
        now = time.monotonic()
        if status == disposal.GOING_ON:
            give_up_at = min(now + give_up_s, give_up_late_at)
        elif status == disposal.GONE and now >= watch_until:
            return True
        if now >= give_up_at:
            return False
        time.sleep(interval_s)
        interval_s = min(2 * interval_s, LAST_INTERVAL_S)


def _execute(program: Program, stdio: Sequence[int], lifeline: socket.socket | None = None) -> int:
    """Execute a command in a session of its own; return its pid.

    Its signals are at their defaults, because all that this process has changed
    are handlers, which an exec resets (see ``fork_server``). All descriptors
    but these are close-on-exec (PEP 446). ``posix_spawn`` does not copy
    this process's memory tables, as a fork does, and touches few of the pages
    that it shares with the fork server.

    Raises:
      OSError: it is nowhere, or cannot be executed, or the server has spoken on
        ``lifeline`` meanwhile, which is left to be heard.
    """
    paths, argv, env = program
    dup2 = os.POSIX_SPAWN_DUP2
    actions = [(dup2, stdio[0], 0), (dup2, stdio[1], 1), (dup2, stdio[2], 2)]
    if len(stdio) > 3:  # command.FILE_PATH
        actions.append((dup2, stdio[3], 3))
    paths = paths or tuple(candidates(argv[0], env))
    failure = errno.ENOENT
    # (Neither a generator nor an iterator: each costs a supervisor some 50 KB.)
    at = 0
    while at < len(paths):
        at += 1
        # A look costs microseconds, an attempt that fails costs a process.
        if os.access(paths[at - 1], os.X_OK):
            try:
                return os.posix_spawn(paths[at - 1], argv, env, file_actions=actions, setsid=True)
            except (FileNotFoundError, NotADirectoryError):
                failure = NO_INTERPRETER
            except PermissionError:
                failure = errno.EACCES
        if at % MANY == 0:
            _listen(lifeline)
    if failure == errno.ENOENT and _is_anywhere(paths, lifeline):
        failure = errno.EACCES
    raise OSError(failure, os.strerror(failure))


def _is_anywhere(paths: Sequence[str], lifeline: socket.socket | None) -> bool:
    for turn, path in enumerate(paths):
        if os.path.exists(path):
            return True
        if turn % MANY == 0:
            _listen(lifeline)
    return False


def _listen(lifeline: socket.socket | None) -> None:
    """Raise ``OSError`` where the server has spoken, which is left to be received."""
    if lifeline is not None and _is_told(lifeline):
        raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED))


def _is_told(lifeline: socket.socket) -> bool:
    """Return whether there is something to be received, be it that the server is gone."""
    try:
        lifeline.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except ConnectionError:
        return True
    return True


def _start_in_namespace(program: Program, stdio: Sequence[int], lifeline: socket.socket) -> int:
    """Start the command in a PID namespace of its own; return the pid of its keeper.

    The keeper has made the namespace and waits for its first process. When that
    ends, by itself or because keeper or supervisor did, the kernel kills all
    others in the namespace, and the keeper sees its end only after theirs.

    Raises:
      OSError: the namespace is refused, or see ``_execute``.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError:
        os.close(told)
        os.close(tell)
        raise
    if pid == 0:
        _be_keeper(tell, program, stdio, lifeline)
    os.close(tell)
    failure = os.read(told, 16)
    os.close(told)
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), os.strerror(int(failure)))
    return pid


def _be_keeper(
    tell: int, program: Program, stdio: Sequence[int], lifeline: socket.socket
) -> NoReturn:
    """Make the namespace, and end as its first process does.

    A process of its own, because one that has made a namespace can start
    nothing outside of it any more.
    """
    try:
        linux.signal_at_parents_end(signal.SIGKILL)
        linux.enter_pid_namespace()
        first = os.fork()
        if first == 0:
            _be_first_process(tell, program, stdio, lifeline)
        for fd in (*stdio, tell):
            os.close(fd)
        os._exit(_shell_code(os.waitpid(first, 0)[1]))
    except OSError as error:
        os.write(tell, str(error.errno or 0).encode())
    finally:
        os._exit(1)


def _be_first_process(
    tell: int, program: Program, stdio: Sequence[int], lifeline: socket.socket
) -> NoReturn:
    """Start the command, reap what becomes ours, and end as the command does."""
    try:
        linux.signal_at_parents_end(signal.SIGKILL)
        linux.mount_own_proc()
        leader = _execute(program, stdio, lifeline)
        for fd in (*stdio, tell):
            os.close(fd)
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == leader:
                os._exit(_shell_code(status))
    except OSError as error:
        os.write(tell, str(error.errno or 0).encode())
    finally:
        os._exit(1)


def _shell_code(wait_status: int) -> int:
    """Return the exit code that stands for a status: a signal cannot be passed on.

    The first process of a namespace survives the signals that it sends itself.
    """
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
