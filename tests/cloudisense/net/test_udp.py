"""The UDP endpoint, over real sockets on the loopback."""

import asyncio
import socket

import pytest

from cloudisense.mesh.effects import Address
from cloudisense.net.udp import MAX_DATAGRAM, UdpEndpoint, plain_address


class Inbox:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue()

    def __call__(self, data: bytes, address: Address) -> None:
        self.queue.put_nowait((data, address))

    async def next(self) -> tuple[bytes, Address]:
        async with asyncio.timeout(5):
            return await self.queue.get()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on this host")


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
async def test_datagrams_there_and_back(host: str):
    left, right = Inbox(), Inbox()
    a, b = await UdpEndpoint.open(host, 0, left), await UdpEndpoint.open(host, 0, right)
    a.send((host, b.port), b"ping")
    assert await right.next() == (b"ping", (host, a.port))
    b.send((host, a.port), b"pong")
    assert await left.next() == (b"pong", (host, b.port))
    assert not a.errors and not b.errors
    a.close()
    b.close()


@needs_ipv6
async def test_a_socket_for_all_addresses_talks_ipv4_by_its_plain_name():
    left, right = Inbox(), Inbox()
    a, b = await UdpEndpoint.open("::", 0, left), await UdpEndpoint.open("127.0.0.1", 0, right)
    b.send(("127.0.0.1", a.port), b"four")
    assert await left.next() == (b"four", ("127.0.0.1", b.port))
    a.send(("127.0.0.1", b.port), b"back")
    assert await right.next() == (b"back", ("127.0.0.1", a.port))
    a.close()
    b.close()


async def test_too_large_a_datagram_is_dropped_and_the_next_is_not():
    inbox = Inbox()
    a, b = await UdpEndpoint.open("127.0.0.1", 0, inbox), await UdpEndpoint.open("127.0.0.1", 0, Inbox())
    b.send(("127.0.0.1", a.port), bytes(MAX_DATAGRAM + 1))
    b.send(("127.0.0.1", a.port), bytes(MAX_DATAGRAM))
    assert len((await inbox.next())[0]) == MAX_DATAGRAM
    assert a.dropped == {"too large": 1}
    a.close()
    b.close()


async def test_sending_never_raises_and_counts():
    a = await UdpEndpoint.open("127.0.0.1", 0, Inbox())
    a.send(("127.0.0.1", 9), bytes(70_000))
    assert a.errors["EMSGSIZE"] == 1
    a.send(("::1", 9), b"x")
    assert a.errors["EAFNOSUPPORT"] == 1
    for junk in (("a-name.example", 9), ("127.0.0.1", 0), ("127.0.0.1", 65_536), ("", 1), ("127.0.0.1\0", 1)):
        a.send(junk, b"x")
    assert a.errors["EINVAL"] == 5
    a.send(("255.255.255.255", 9), b"x")
    assert a.errors["EACCES"] == 1, "broadcast is not allowed on this socket"
    a.close()
    a.send(("127.0.0.1", 9), b"x")
    assert a.errors["closed"] == 1


async def test_a_dead_port_does_not_hurt_the_next_send():
    inbox = Inbox()
    a, b = await UdpEndpoint.open("127.0.0.1", 0, Inbox()), await UdpEndpoint.open("127.0.0.1", 0, inbox)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        dead = gone.getsockname()[1]
    for n in range(20):
        a.send(("127.0.0.1", dead), b"anybody?")
        a.send(("127.0.0.1", b.port), bytes([n]))
    assert [(await inbox.next())[0][0] for _ in range(20)] == list(range(20))
    a.close()
    b.close()


async def test_a_taken_port_is_one_line_and_free_after_close():
    a = await UdpEndpoint.open("127.0.0.1", 0, Inbox())
    with pytest.raises(ValueError) as caught:
        await UdpEndpoint.open("127.0.0.1", a.port, Inbox())
    assert str(caught.value) == f"address 127.0.0.1:{a.port} is taken: another agent or program listens there; change [mesh] bind"
    a.close()
    again = await UdpEndpoint.open("127.0.0.1", a.port, Inbox())
    again.close()


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [("192.0.2.1", 0, "not on this host"), ("edge", 0, "not an IP address"), ("127.0.0.1", 70_000, "cannot be used")],
)
async def test_an_address_that_cannot_be_had_is_one_line(host: str, port: int, words: str):
    with pytest.raises(ValueError, match=words):
        await UdpEndpoint.open(host, port, Inbox())


def test_plain_addresses():
    assert plain_address(("10.0.0.1", 5)) == ("10.0.0.1", 5)
    assert plain_address(("::ffff:10.0.0.1", 5, 0, 0)) == ("10.0.0.1", 5)
    assert plain_address(("fe80::1", 5, 0, 3)) == ("fe80::1%3", 5)
    assert plain_address(("fd00::1", 5, 0, 0)) == ("fd00::1", 5)
