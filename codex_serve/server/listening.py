"""The sockets that take connections.

The rule this file guards: a server listens on all of its addresses that this
machine has, on the same port, and says on which; or it does not start.
"""

import errno
import ipaddress
import logging
import os
import socket
from contextlib import ExitStack
from typing import Any

import trio

from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError

logger = logging.getLogger(__name__)

BACKLOG = 1024
ATTEMPTS = 16
"""How often a free port is looked for that is free on all addresses."""

_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
_Address = tuple[int, tuple[Any, ...]]


async def listen(config: Config) -> list[trio.SocketListener]:
    """Listen on each address of ``config.host``; of a name, on those that this machine has.

    ``::`` takes IPv4 as well. Where the port is 0, all get the same.

    Raises:
      ConfigError: none can be listened on, or one of them is taken.
    """
    try:
        found = await trio.socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        # An address may be found twice, where /etc/hosts has a name twice.
        socks = _open_all(list(dict.fromkeys((family, address) for family, *_, address in found)))
    except OSError as error:
        is_of_name = isinstance(error, socket.gaierror)
        reason = error.strerror if is_of_name else os.strerror(error.errno or 0)
        raise ConfigError(
            f"HOST and PORT must be an address of this machine that is free, "
            f"not {config.host}:{config.port}: {reason}"
        ) from error
    for sock in socks:
        _notice_dead_peers(sock, config.write_timeout_s)
    return [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in socks]


def is_loopback(listener: trio.SocketListener) -> bool:
    """Tell whether only this machine can reach ``listener``."""
    address = listener.socket.getsockname()[0]
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _open_all(addresses: list[_Address]) -> list[socket.socket]:
    attempts = ATTEMPTS if addresses[0][1][1] == 0 else 1
    while True:
        attempts -= 1
        try:
            return _open_each(addresses)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _open_each(addresses: list[_Address]) -> list[socket.socket]:
    """Open the sockets; what is no address of this machine is left out if there is another."""
    socks: list[socket.socket] = []
    missing: list[OSError] = []
    with ExitStack() as stack:
        for family, (host, port, *more) in addresses:
            port = socks[0].getsockname()[1] if socks else port
            try:
                sock = socket.create_server(
                    (host, port, *more),
                    family=family,
                    backlog=BACKLOG,
                    dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),
                )
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing.append(error)
            else:
                socks.append(stack.enter_context(sock))
        if not socks:
            raise missing[0]
        stack.pop_all()
    for lack in missing:
        logger.info("not listened on: %s", lack.strerror)
    return socks


def _notice_dead_peers(sock: socket.socket, timeout_s: float) -> None:
    """Let the kernel find out within about ``timeout_s`` that a peer is gone without a word.

    For a connection that waits (keep-alive) and for one that is being written
    to (user timeout). Linux hands the options of a listener on to what it accepts.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in {
        "TCP_KEEPIDLE": max(1, round(timeout_s / 2)),
        "TCP_KEEPINTVL": max(1, round(timeout_s / 6)),
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": max(1000, round(timeout_s * 1000)),
    }.items():
        if hasattr(socket, name):  # not all systems have all
            limit = 2**31 - 1 if name == "TCP_USER_TIMEOUT" else 32_767
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), min(value, limit))
