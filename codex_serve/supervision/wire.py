"""What the server, its fork server and its supervisors say to one another.

Each message is one packet of a ``SOCK_SEQPACKET`` socket pair, so there is no
framing, and the end of file that comes when a party dies is told by the kernel.
A message is a tuple, its kind first. They are no classes on purpose: what a
supervisor touches it no longer shares with the fork server, and each class
costs it some 20 KB. The parties run the same Python, so they use ``marshal``.

| message | from → to | descriptors |
|---|---|---|
| ``(FORK,)`` | server → fork server: make a supervisor | its lifeline |
| ``(ORPHANS_GONE, pid)`` | fork server → server: nothing that the killed supervisor ``pid`` left is there any more | |
| ``(READY, pid)`` | supervisor → server: it waits for a command | |
| ``(START, limit_s, grace_s)`` | server → supervisor | stdin, stdout, stderr, the spec |
| ``(STOP,)`` | server → supervisor: end the command | |
| ``(REMOVE, limit_s)`` | server → supervisor: remove what is left of a command that was killed | the spec |
| ``(FAILED, errno)`` | supervisor → server: the command could not be executed | |
| ``(CLEAN, wait_status, timed_out, removed)`` | supervisor → server: the command and all it started are gone | |

A spec is ``(paths, argv, env, removal)``: the first of ``paths`` that can be
executed is. ``removal`` is ``(paths, argv, awaited)`` or ``None``, see
``launchers.Removal``. It travels in a memfd, because it can be megabytes.

Standard library only: the fork server and its supervisors load it.
"""  # noqa: E501 - a table

import array
import marshal
import os
import socket
from collections.abc import Sequence
from typing import Any

FORK, ORPHANS_GONE, READY, START, STOP, REMOVE, FAILED, CLEAN = range(8)

Message = tuple[Any, ...]
Names = tuple[str, ...]
Removal = tuple[Names, Names, bool]
Spec = tuple[Names, Names, dict[str, str], Removal | None]

GONE: Message = ()
"""What is received when the other party is gone."""

MAX_PACKET_BYTES = 4096


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Return the two ends of a connection."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message.

    Raises:
      BlockingIOError: a non-blocking socket is full; nothing was sent.
      OSError: the other party is gone.
    """
    packet = marshal.dumps(message)
    if fds:
        socket.send_fds(sock, [packet], fds, socket.MSG_NOSIGNAL)
    else:
        sock.send(packet, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, max_fds: int = 0) -> tuple[Message, list[int]]:
    """Receive one message, or ``GONE``, and the descriptors with it, close-on-exec.

    Raises:
      BlockingIOError: a non-blocking socket has nothing.
    """
    fds = array.array("i")
    room = socket.CMSG_SPACE(max_fds * fds.itemsize)
    try:
        # Not socket.recv_fds: it drops the flag that makes them close-on-exec.
        packet, ancillary, _, _ = sock.recvmsg(MAX_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:  # it died with a message of ours unread
        return GONE, []
    for _, _, rights in ancillary:
        fds.frombytes(rights)
    return (marshal.loads(packet) if packet else GONE), fds.tolist()  # noqa: S302 - our own


def write_spec(spec: Spec) -> int:
    """Return a memfd that holds ``spec``, to be closed by the caller."""
    fd = os.memfd_create("spec", os.MFD_CLOEXEC)
    # Later versions of the format intern strings where they are read, in a table that
    # a supervisor shares.
    data = memoryview(marshal.dumps(spec, 2))
    while data:
        data = data[os.write(fd, data) :]
    return fd


def read_spec(fd: int) -> Spec:
    """Read what ``write_spec`` wrote. Leaves ``fd`` open."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, size, 0)
    while len(data) < size:
        data += os.pread(fd, size - len(data), len(data))
    spec: Spec = marshal.loads(data)  # noqa: S302 - from our own process
    return spec
