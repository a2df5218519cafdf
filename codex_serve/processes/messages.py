"""What the server, its fork server and its supervisors say to one another.

Each message is one packet of a ``SOCK_SEQPACKET`` socket pair, so there is no
framing, and the end of file that comes when a party dies is told by the kernel.
A message is a tuple, its kind first. They are no classes on purpose: what a
supervisor touches it no longer shares with the fork server, and each class
costs it some 20 KB. The parties run the same Python, so they use ``marshal``.

| message | from → to | descriptors |
|---|---|---|
| ``(FORK,)`` | server → fork server: make a supervisor | its lifeline |
| ``(LOST, pid)`` | server → fork server: the lifeline of the supervisor ``pid`` has ended in the middle of a run | |
| ``(ORPHANS_GONE, pid)`` | fork server → server: nothing that the killed supervisor ``pid`` left is there any more | |
| ``(READY, pid)`` | supervisor → server: it waits for a command | |
| ``(START, limit_s, grace_s, spec)`` | server → supervisor | stdin, stdout, stderr, and ``Launch.file`` where there is one |
| ``(STOP,)`` | server → supervisor: end the command, and say at once that you are there | |
| ``(ENDING,)`` | supervisor → server: the answer; also said before something is removed, for then nobody answers | |
| ``(REMOVE, limit_s, removal)`` | server → supervisor: remove what is left of a command that was killed | |
| ``(FAILED, errno)`` | supervisor → server: the command could not be executed; see also ``lookup.NO_INTERPRETER`` | |
| ``(CLEAN, wait_status, timed_out, removed)`` | supervisor → server: the command and all it started are gone | |
| one byte, see ``send_verdict`` | supervisor → server: follows ``CLEAN``, when nobody waits for it | |

A spec is ``(paths, argv, env, removal)``: the first of ``paths`` that can be executed
is; where there are none, ``argv[0]`` is looked up on the ``PATH`` of ``env``.
``removal`` is ``(what, awaited)`` or ``None``, see
``command.Removal``. It can be megabytes: a message that is too long for a
packet travels in a memfd, behind the other descriptors.

Standard library only: the fork server and its supervisors load it.
"""  # noqa: E501 - a table

import array
import errno
import marshal
import os
import socket
from collections.abc import Sequence
from typing import Any

FORK, LOST, ORPHANS_GONE = range(3)
READY, START, STOP, ENDING, REMOVE, FAILED, CLEAN, IN_FILE = range(3, 11)

Message = tuple[Any, ...]
Names = tuple[str, ...]
Removal = tuple[Names, bool]
Spec = tuple[Names, Names, dict[str, str], Removal | None]

GONE: Message = ()
"""What is received when the other party is gone."""

MAX_PACKET_BYTES = 16_384

# As numbers: an operation on the enumeration's members costs as much as a system call.
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
      ConnectionError: the other party is gone.
      BlockingIOError: a non-blocking socket is full; nothing was sent.
      OSError: the system has no room for it.
    """
    # Later versions of the format intern strings where they are read, in a table that
    # a supervisor shares.
    packet = marshal.dumps(message, 2)
    if len(packet) > MAX_PACKET_BYTES:
        fd = _write_file(packet)
        try:
            send(sock, (IN_FILE,), (*fds, fd))
        finally:
            os.close(fd)
    elif fds:
        socket.send_fds(sock, [packet], fds, socket.MSG_NOSIGNAL)
    else:
        sock.send(packet, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message, list[int]]:
    """Receive one message, or ``GONE``, and the descriptors with it, close-on-exec.

    Raises:
      BlockingIOError: a non-blocking socket has nothing.
      OSError: this process has no room for the descriptors of a message, which is lost.
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE((max_fds + 1) * fds.itemsize)
    try:
        # Not socket.recv_fds: it drops the flag that makes them close-on-exec.
        packet, ancillary, flags, _ = sock.recvmsg(MAX_PACKET_BYTES, room, _CLOSE_ON_EXEC)
    except ConnectionResetError:  # it died with a message of ours unread
        return GONE, []
    for _, _, rights in ancillary:
        fds.frombytes(rights)
    try:
        if flags & _TRUNCATED:  # the kernel gives as many as there is room for
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        message: Message = marshal.loads(packet) if packet else GONE  # noqa: S302 - our own
        if message == (IN_FILE,):
            message = marshal.loads(_read_file(fds[-1]))  # noqa: S302
            os.close(fds.pop())
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return message, fds.tolist()


def send_verdict(sock: socket.socket, *, unchanged: bool) -> None:
    """Say whether this supervisor still has the ``traits`` that it was started with.

    It is said once for each command, and so is no message: it takes a tenth of the time.

    Raises:
      OSError: as ``send``.
    """
    sock.send(b"+" if unchanged else b"-", socket.MSG_NOSIGNAL)


def receive_verdict(sock: socket.socket) -> bool:
    """Receive what ``send_verdict`` has sent; no where the other party is gone.

    Raises:
      BlockingIOError: a non-blocking socket has nothing.
    """
    try:
        return sock.recv(1) == b"+"
    except ConnectionResetError:  # it died with a message of ours unread
        return False


def _write_file(data: bytes) -> int:
    """Return a memfd that holds ``data``, to be closed by the caller."""
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def _read_file(fd: int) -> bytes:
    """Read what ``_write_file`` wrote."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return data
