"""What the server, its fork server and its supervisors say to one another.

Each message is one packet of a ``SOCK_SEQPACKET`` socket pair, so there is no
framing, and the end of file that comes when a party dies is told by the kernel.
The parties run the same Python, so ``marshal`` is understood by all of them.

Standard library only: the fork server and its supervisors load it.
"""

import array
import marshal
import os
import socket
from collections.abc import Sequence
from typing import NamedTuple

MAX_PACKET_BYTES = 4096
_INT_SIZE = array.array("i").itemsize


class Fork(NamedTuple):
    """Server → fork server, with one end of a lifeline: make a supervisor."""


class OrphansGone(NamedTuple):
    """Fork server → server: what a killed supervisor left behind is gone."""

    supervisor: int


class Ready(NamedTuple):
    """Supervisor → server: it waits for a command."""

    pid: int


class Start(NamedTuple):
    """Server → supervisor, with stdin, stdout, stderr and a ``Spec`` in a memfd."""

    limit_s: float
    grace_s: float


class Stop(NamedTuple):
    """Server → supervisor: end the command now."""


class Failed(NamedTuple):
    """Supervisor → server: the command could not be executed."""

    errno: int


class Clean(NamedTuple):
    """Supervisor → server: the command and all it started are gone."""

    wait_status: int
    timed_out: bool


Message = Fork | OrphansGone | Ready | Start | Stop | Failed | Clean
_KINDS: tuple[type[Message], ...] = (Fork, OrphansGone, Ready, Start, Stop, Failed, Clean)


class Spec(NamedTuple):
    """A command as it is executed. It travels in a memfd: it can be megabytes."""

    argv: tuple[bytes, ...]
    env: dict[bytes, bytes]


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
      BlockingIOError: a non-blocking socket is full; nothing was sent.
      OSError: the other party is gone.
    """
    packet = marshal.dumps((_KINDS.index(type(message)), *message))
    if fds:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        sock.sendmsg([packet], [rights], socket.MSG_NOSIGNAL)
    else:
        sock.send(packet, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message | None, list[int]]:
    """Receive one message and the descriptors with it, close-on-exec.

    Returns:
      ``None`` as the message when the other party is gone.

    Raises:
      BlockingIOError: a non-blocking socket has nothing.
    """
    try:
        packet, ancillary, _, _ = sock.recvmsg(
            MAX_PACKET_BYTES, socket.CMSG_SPACE(max_fds * _INT_SIZE), socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionResetError:  # it died with a message of ours unread
        return None, []
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_SIZE])
    if not packet:
        return None, list(fds)
    kind, *fields = marshal.loads(packet)  # noqa: S302 - from a process that we started
    return _KINDS[kind](*fields), list(fds)


def write_spec(spec: Spec) -> int:
    """Return a memfd that holds ``spec``, to be closed by the caller."""
    fd = os.memfd_create("spec", os.MFD_CLOEXEC)
    data = memoryview(marshal.dumps(tuple(spec)))
    while data:
        data = data[os.write(fd, data) :]
    return fd


def read_spec(fd: int) -> Spec:
    """Read what ``write_spec`` wrote. Leaves ``fd`` open."""
    size = os.fstat(fd).st_size
    data = bytearray()
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    return Spec(*marshal.loads(data))  # noqa: S302 - from a process that we started
