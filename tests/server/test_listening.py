"""Where the server listens: on all that its ``HOST`` means and the machine has."""

import socket
from collections.abc import Sequence

import pytest
import trio
import trio.abc

from codex_serve.core.config import Config
from codex_serve.core.errors import ConfigError
from codex_serve.server.listening import listen
from conftest import StartServer

FOREIGN = "203.0.113.1"
"""An address that no machine has."""


class Names(trio.abc.HostnameResolver):
    """Has one name, with some addresses."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = addresses

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002
        found = [socket.getaddrinfo(each, port, type=type) for each in self._addresses]
        return [info for infos in found for info in infos]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


async def addresses_of(*found: str, port: int = 0) -> list[tuple[str, int]]:
    """Where a server listens whose host is a name with the addresses ``found``."""
    trio.socket.set_custom_hostname_resolver(Names(found))
    try:
        listeners = await listen(Config(host="a.name", port=port))
    finally:
        trio.socket.set_custom_hostname_resolver(None)
    names = [listener.socket.getsockname()[:2] for listener in listeners]
    for listener in listeners:
        listener.socket.close()
    return names


async def test_what_the_machine_does_not_have_of_a_name_is_left_out() -> None:
    for found in ((FOREIGN, "127.0.0.1"), ("127.0.0.1", FOREIGN)):
        ((host, port),) = await addresses_of(*found)
        assert host == "127.0.0.1"
        assert port


async def test_an_address_that_a_name_has_twice_is_listened_on_once() -> None:
    assert len(await addresses_of("127.0.0.1", "127.0.0.1")) == 1


async def test_all_addresses_get_the_same_free_port() -> None:
    (first, port), (second, other) = await addresses_of("127.0.0.1", "127.0.0.2")
    assert (first, second) == ("127.0.0.1", "127.0.0.2")
    assert port == other


async def test_a_name_without_an_address_of_this_machine_stops_the_start() -> None:
    with pytest.raises(ConfigError, match="Cannot assign requested address"):
        await addresses_of(FOREIGN)


async def test_an_address_that_is_taken_stops_the_start_though_another_is_free() -> None:
    with socket.create_server(("127.0.0.2", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="Address already in use"):
            await addresses_of("127.0.0.1", "127.0.0.2", port=port)


def test_localhost_is_listened_on(start_server: StartServer) -> None:
    server = start_server(args=["--host", "localhost"])
    assert server.request("GET", "/models").status == 200
    lines = [line for line in server.log if " listening on " in line]
    assert lines
    assert all(line.endswith(f":{server.port}") for line in lines)


@pytest.mark.needs("ipv6")
def test_the_address_of_all_of_ipv6_takes_ipv4_as_well(start_server: StartServer) -> None:
    server = start_server(args=["--host", "::"])
    assert server.request("GET", "/models").status == 200
    with socket.create_connection(("::1", server.port), 30) as connection:
        connection.sendall(b"GET /models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
    (line,) = [line for line in server.log if " listening on " in line]
    assert line.endswith(f"http://[::]:{server.port}")
    assert any("no token is set" in line for line in server.log)
