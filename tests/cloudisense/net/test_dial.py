"""Dialling: a client's own bounds, and what a joiner does, over real TLS on the loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cloudisense.keys import issue_for_tests
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.testing import TestMember
from cloudisense.keys.tls import private_pem
from cloudisense.net import dial
from cloudisense.net.contexts import TlsOwn, server_context
from cloudisense.net.dial import StreamClient, fetch_roster, send_join
from cloudisense.net.streams import StreamServer

MESH = issue_for_tests(1)
A, B, C = MESH.valid, MESH.member("b"), MESH.member("c")
HERE = "127.0.0.1"


def own(member: TestMember) -> TlsOwn:
    return TlsOwn(member.leaf, private_pem(member.identity))


class Host:
    """A server that remembers what reached its handlers."""

    def __init__(self, member: TestMember) -> None:
        self.bulk: list[tuple[bytes, bytes]] = []
        self.joins: list[tuple[bytes, str]] = []
        self.server = StreamServer(
            own(member),
            [MESH.anchor],
            admit=lambda node: True,
            on_bulk=lambda node, body: self.bulk.append((node, body)),
            on_join=self.on_join,
            roster_chain=lambda: MESH.chain,
        )

    async def on_join(self, body: bytes, source: str) -> bytes:
        self.joins.append((body, source))
        if body == b"bad":
            raise RemoteProtocolError("malformed join request")
        return b"welcome " + body

    @property
    def address(self) -> tuple[str, int]:
        return HERE, self.server.port


@contextlib.asynccontextmanager
async def running(member: TestMember = A) -> AsyncIterator[Host]:
    host = Host(member)
    await host.server.start(HERE, 0)
    try:
        yield host
    finally:
        await host.server.close()


@contextlib.asynccontextmanager
async def dialling(member: TestMember = B) -> AsyncIterator[StreamClient]:
    client = StreamClient(own(member), [MESH.anchor])
    try:
        yield client
    finally:
        await client.close()


# The client's own bounds.


async def test_a_slow_peers_queue_is_bounded_and_in_order(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dial, "MAX_WAITING_NODE", 5)
    async with running() as host, dialling() as client:
        sent = await asyncio.gather(*(client.post_bulk(A.identity.id, host.address, bytes([n])) for n in range(8)))
        assert sent == [True] * 5 + [False] * 3
        assert client.errors == {"queue full": 3}
        assert [body for _, body in host.bulk] == [bytes([n]) for n in range(5)]
        assert await client.post_bulk(A.identity.id, host.address, b"again")


async def test_messages_to_one_node_at_two_addresses_each_go_to_their_own():
    async with running() as host, dialling() as client:
        nobody = "127.0.0.9", host.server.port
        sent = await asyncio.gather(*(client.post_bulk(A.identity.id, address, b"x") for address in (nobody, host.address)))
        assert sent == [False, True]
        assert client.errors == {"ECONNREFUSED": 1}


async def test_a_peer_that_is_not_there_is_counted_never_raised(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dial, "BULK_TIMEOUT_S", 0.2)
    silent = await asyncio.start_server(_silent, HERE, 0)
    async with running() as host:
        dead = host.address
    async with dialling() as client:
        assert not await client.post_bulk(A.identity.id, dead, b"x")
        assert not await client.post_bulk(A.identity.id, ("not-an-ip.example", 1), b"x")
        assert not await client.post_bulk(A.identity.id, silent.sockets[0].getsockname(), b"x")
        assert client.errors["ECONNREFUSED"] == 1
        assert client.errors["timed out"] == 1
        assert client.errors.total() == 3
    assert not await client.post_bulk(A.identity.id, dead, b"x")
    assert client.errors["closed"] == 1
    silent.close()
    await asyncio.sleep(0.05)


# Joining.


async def test_a_joiner_learns_the_roster_and_then_sends_its_secret():
    async with running() as host:
        node, leaf, chain = await fetch_roster(host.address)
        assert (node, leaf, tuple(chain)) == (A.identity.id, A.leaf, MESH.chain)
        assert await send_join(host.address, leaf, b"secret") == b"welcome secret"
        assert host.joins == [(b"secret", HERE)]
        with pytest.raises(ValueError, match="refused: malformed join request"):
            await send_join(host.address, leaf, b"bad")


async def test_the_secret_goes_to_no_other_key_than_the_one_that_was_checked():
    async with running() as host, running(member=C) as thief:
        _, leaf, _ = await fetch_roster(host.address)
        with pytest.raises(ValueError, match="another key than a moment ago; nothing was sent"):
            await send_join(thief.address, leaf, b"secret")
        assert thief.joins == []


Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _plain_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def _slams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


@pytest.mark.parametrize(
    ("peer", "words"), [(_plain_http, "not a CloudiSENSE agent"), (_silent, "did not answer in time"), (_slams, "ended the connection")]
)
async def test_something_else_at_the_address_is_one_line(peer: Peer, words: str):
    listener = await asyncio.start_server(peer, HERE, 0)
    with pytest.raises(ValueError, match=words) as caught:
        await fetch_roster(listener.sockets[0].getsockname(), timeout_s=0.3)
    assert "\n" not in str(caught.value)
    listener.close()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmeow",
        b"HTTP/1.1 302 Found\r\nLocation: https://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"10000\r\n" + bytes(65536) + b"\r\n") * 20,
    ],
)
async def test_another_tls_server_is_one_line(answer: bytes):
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            if await reader.readline():
                writer.write(answer)
                await writer.drain()
        writer.close()

    listener = await asyncio.start_server(peer, HERE, 0, ssl=server_context(own(A), [MESH.anchor]))
    with pytest.raises(ValueError, match="127.0.0.1") as caught:
        await fetch_roster(listener.sockets[0].getsockname(), timeout_s=2.0)
    assert "agent" in str(caught.value)
    assert "\n" not in str(caught.value)
    listener.close()
    await asyncio.sleep(0.05)


async def test_nobody_there_is_one_line():
    async with running() as host:
        address = host.address
    with pytest.raises(ValueError, match="refused the connection: no agent listens there"):
        await fetch_roster(address)
