"""Streams over real TLS on the loopback, and what an attacker may try on them."""

import asyncio
import contextlib
import gzip
import os
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from aiohttp import web

from cloudisense.keys import issue_for_tests
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.testing import TestMember
from cloudisense.keys.tls import private_pem
from cloudisense.net import dial
from cloudisense.net.contexts import client_context, first_contact_context, server_context
from cloudisense.net.streams import Limits, StreamClient, StreamServer, TlsOwn, _TokenBuckets, fetch_roster, send_join

MESH = issue_for_tests(1)
A, B, C = MESH.valid, MESH.member("b"), MESH.member("c")
LIMITS = Limits()
HERE = "127.0.0.1"


def own(member: TestMember) -> TlsOwn:
    return TlsOwn(member.leaf, private_pem(member.identity))


class Host:
    """A server that remembers what reached its handlers."""

    def __init__(self, member: TestMember = A, limits: Limits = LIMITS, anchor: bytes = MESH.anchor) -> None:
        self.refused = {MESH.revoked.identity.id}
        self.bulk: list[tuple[bytes, bytes]] = []
        self.joins: list[tuple[bytes, str]] = []
        self.requests = 0
        self.server = StreamServer(
            own(member),
            [anchor],
            admit=lambda node: node not in self.refused,
            on_bulk=lambda node, body: self.bulk.append((node, body)),
            on_join=self.on_join,
            roster_chain=lambda: MESH.chain,
            limits=limits,
        )
        handle = self.server._handle

        async def counted(request: web.BaseRequest) -> web.StreamResponse:
            self.requests += 1
            return await handle(request)

        setattr(self.server, "_handle", counted)  # noqa: B010 (a method is not ours to assign, says pyright)

    async def on_join(self, body: bytes, source: str) -> bytes:
        self.joins.append((body, source))
        if body == b"bad":
            raise RemoteProtocolError("malformed join request")
        return b"welcome " + body

    @property
    def address(self) -> tuple[str, int]:
        return HERE, self.server.port


@contextlib.asynccontextmanager
async def running(member: TestMember = A, limits: Limits = LIMITS, anchor: bytes = MESH.anchor) -> AsyncIterator[Host]:
    host = Host(member, limits, anchor)
    await host.server.start(HERE, 0)
    try:
        yield host
    finally:
        await host.server.close()


@contextlib.asynccontextmanager
async def dialling(member: TestMember = B, anchor: bytes = MESH.anchor) -> AsyncIterator[StreamClient]:
    client = StreamClient(own(member), [anchor])
    try:
        yield client
    finally:
        await client.close()


async def exchange(host: Host, context: ssl.SSLContext, request: bytes) -> bytes:
    """Send raw bytes after the handshake and return all that comes back until the end; errors end it."""
    context.check_hostname = False
    writer = None
    async with asyncio.timeout(5):
        try:
            reader, writer = await asyncio.open_connection(*host.address, ssl=context, ssl_shutdown_timeout=0.2)
            writer.write(request)
            await writer.drain()
            return await reader.read()
        except OSError:
            return b""
        finally:
            if writer is not None:
                writer.transport.abort()
                await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


def member_context(member: TestMember = B) -> ssl.SSLContext:
    return client_context(own(member), [MESH.anchor])


def post(path: str, body: bytes, headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


# Members.


async def test_a_member_delivers_bulk_over_one_kept_connection():
    async with running() as host, dialling() as client:
        for n in range(3):
            assert await client.post_bulk(A.identity.id, host.address, bytes([n]) * 100_000)
        assert host.bulk == [(B.identity.id, bytes([n]) * 100_000) for n in range(3)]
        assert len(host.server.connections) == 1
        assert not client.errors and not host.server.dropped


async def test_a_host_on_ipv6_is_reached_too():
    host = Host()
    try:
        await host.server.start("::1", 0)
    except ValueError:
        pytest.skip("no IPv6 on this host")
    async with dialling() as client:
        assert await client.post_bulk(A.identity.id, ("::1", host.server.port), b"six")
    await host.server.close()


async def test_without_a_certificate_bulk_is_refused():
    async with running() as host:
        answer = await exchange(host, first_contact_context(), post("/bulk", b"x"))
        assert answer.startswith(b"HTTP/1.1 403")
        assert host.bulk == []


async def test_a_foreign_issuer_is_refused_at_the_handshake():
    async with running() as host:
        foreign = client_context(own(MESH.foreign), [MESH.anchor])
        assert await exchange(host, foreign, post("/bulk", b"x")) == b""
        async with dialling(MESH.foreign) as client:
            assert not await client.post_bulk(A.identity.id, host.address, b"x")
            assert client.errors.total() == 1
        await until(lambda: host.server.dropped["handshake failed"] == 2)
        assert (host.requests, host.bulk) == (0, [])


@pytest.mark.parametrize("request_", [post("/bulk", b"x"), b"GET /join/roster HTTP/1.1\r\nHost: x\r\n\r\n", b""])
async def test_a_revoked_member_never_reaches_a_handler(request_: bytes):
    async with running() as host:
        assert await exchange(host, member_context(MESH.revoked), request_) == b""
        await until(lambda: host.server.dropped["not admitted"] == 1)
        assert (host.requests, host.server.connections) == (0, {})


async def test_a_member_that_is_revoked_while_connected_is_cut_off():
    async with running() as host, dialling() as client:
        assert await client.post_bulk(A.identity.id, host.address, b"before")
        host.refused.add(B.identity.id)
        host.server.recheck()
        await until(lambda: not host.server.connections)
        assert not await client.post_bulk(A.identity.id, host.address, b"after")
        assert [body for _, body in host.bulk] == [b"before"]


async def test_admission_is_asked_at_each_request_too():
    async with running() as host, dialling() as client:
        assert await client.post_bulk(A.identity.id, host.address, b"before")
        host.refused.add(B.identity.id)
        assert not await client.post_bulk(A.identity.id, host.address, b"after")
        assert client.errors == {"status 403": 1}
        assert [body for _, body in host.bulk] == [b"before"]


async def test_another_nodes_certificate_is_refused_by_the_client():
    async with running(member=C) as host, dialling() as client:
        assert not await client.post_bulk(A.identity.id, host.address, b"for A only")
        assert client.errors == {"wrong certificate": 1}
        assert (host.requests, host.bulk) == (0, [])
        assert await client.post_bulk(C.identity.id, host.address, b"for C")
        assert not await client.post_bulk(A.identity.id, host.address, b"for A only")
        assert [body for _, body in host.bulk] == [b"for C"], "a kept connection to C is not one to A"


async def test_a_server_of_another_mesh_is_refused_by_the_client():
    async with running(member=MESH.foreign, anchor=MESH.anchor) as host, dialling() as client:
        assert not await client.post_bulk(MESH.foreign.identity.id, host.address, b"x")
        assert client.errors == {"wrong certificate": 1}
        assert host.requests == 0


async def test_anchors_are_replaced_on_both_sides():
    async with running() as host, dialling() as client, dialling(MESH.foreign) as stranger:
        assert await client.post_bulk(A.identity.id, host.address, b"1")
        assert not await stranger.post_bulk(A.identity.id, host.address, b"2")
        host.server.update_anchors([MESH.anchor, MESH.foreign_anchor])
        assert await stranger.post_bulk(A.identity.id, host.address, b"3")
        client.update_anchors([MESH.foreign_anchor])
        assert not await client.post_bulk(A.identity.id, host.address, b"4")
        assert [body for _, body in host.bulk] == [b"1", b"3"]


async def test_tls_1_2_is_refused_by_the_server():
    async with running() as host:
        old = member_context()
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await exchange(host, old, post("/bulk", b"x")) == b""
        await until(lambda: host.server.dropped["handshake failed"] == 1)
        assert host.requests == 0


async def test_tls_1_2_is_refused_by_the_client():
    old = server_context(own(A), [MESH.anchor])
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    shaken: list[object] = []

    def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shaken.append(writer.get_extra_info("ssl_object").version())
        writer.close()

    listener = await asyncio.start_server(peer, HERE, 0, ssl=old)
    address = HERE, listener.sockets[0].getsockname()[1]
    async with dialling() as client:
        assert not await client.post_bulk(A.identity.id, address, b"x")
        assert client.errors.total() == 1
    with pytest.raises(ValueError, match="not a CloudiSENSE agent"):
        await fetch_roster(address)
    listener.close()
    assert shaken == []


# Bounds.


CHUNKED = b"POST /bulk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        post("/bulk", bytes(1001)),
        b"POST /bulk HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n",
        CHUNKED + b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n",
        CHUNKED + b"64\r\n" + bytes(100) + b"\r\n" + (b"64\r\n" + bytes(100) + b"\r\n") * 10,
    ],
)
async def test_a_body_over_the_limit_is_refused(request_: bytes):
    async with running(limits=replace(LIMITS, bulk_bytes=1000)) as host:
        answer = await exchange(host, member_context(), request_)
        assert answer.startswith(b"HTTP/1.1 413")
        assert host.bulk == []
        assert (await exchange(host, member_context(), post("/bulk", bytes(1000), "Connection: close\r\n"))).startswith(b"HTTP/1.1 204")


async def test_a_joiners_body_has_its_own_smaller_limit():
    async with running() as host:
        assert (await exchange(host, first_contact_context(), post("/join", bytes(LIMITS.join_bytes + 1)))).startswith(b"HTTP/1.1 413")
        assert host.joins == []


async def test_a_packed_body_is_not_unpacked():
    bomb = gzip.compress(bytes(1_000_000))
    async with running() as host:
        await exchange(host, member_context(), post("/bulk", bomb, "Content-Encoding: gzip\r\nConnection: close\r\n"))
        assert [body for _, body in host.bulk] == [bomb]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /bulk HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /join/roster HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_nothing_else_is_served(request_: bytes):
    async with running() as host:
        assert (await exchange(host, member_context(), request_)).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "junk", [b"\x00" * 100, b"GET /" + b"a" * 5000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n"]
)
async def test_junk_ends_the_connection_and_nothing_else(junk: bytes):
    async with running() as host, dialling() as client:
        answer = await exchange(host, first_contact_context(), junk)
        assert answer == b"" or (answer.startswith(b"HTTP/1.") and b" 400 " in answer.splitlines()[0])
        assert await client.post_bulk(A.identity.id, host.address, b"x")


@pytest.mark.parametrize("begin", [b"", b"POST /bulk HT", b"POST /bulk HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"])
@pytest.mark.parametrize("context", [first_contact_context, member_context])
async def test_a_slow_client_is_cut_off(begin: bytes, context: Callable[[], ssl.SSLContext]):
    async with running(limits=replace(LIMITS, request_s=0.2)) as host:
        answer = await exchange(host, context(), begin)
        assert answer == b"" or b"403" in answer
        await until(lambda: not host.server.connections)
        assert host.bulk == []
        assert host.server.dropped["too slow"] + host.server.dropped["status 403"] == 1


async def test_a_connection_that_dribbles_its_second_request_is_cut_off():
    async with running(limits=replace(LIMITS, idle_s=0.3)) as host:
        reader, writer = await asyncio.open_connection(*host.address, ssl=member_context(), server_hostname=dial.host_name(A.identity.id))
        writer.write(post("/bulk", b"x"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 204")
        async with asyncio.timeout(5):
            while host.server.connections:
                writer.write(b"P")
                await asyncio.sleep(0.05)
        writer.transport.abort()


async def test_a_silent_handshake_ends_and_few_may_be_open():
    async with running(limits=replace(LIMITS, handshake_s=0.3, handshakes_source=2)) as host, dialling() as client:
        silent = [await asyncio.open_connection(*host.address) for _ in range(3)]
        await until(lambda: host.server.dropped["too many handshakes of one source"] == 1)
        await until(lambda: host.server.dropped["handshake failed"] == 2)
        assert await client.post_bulk(A.identity.id, host.address, b"x")
        for _, writer in silent:
            writer.close()


async def test_strangers_cannot_take_all_the_room():
    async with running(limits=replace(LIMITS, strangers_source=2)) as host, dialling() as client:
        strangers = [await asyncio.open_connection(*host.address, ssl=first_contact_context()) for _ in range(3)]
        await until(lambda: host.server.dropped["too many strangers"] == 1)
        assert await client.post_bulk(A.identity.id, host.address, b"x")
        for _, writer in strangers:
            writer.transport.abort()


@pytest.mark.parametrize(
    ("limits", "reason"), [({"connections_node": 1}, "too many connections of one node"), ({"connections": 1}, "too many connections")]
)
async def test_connections_are_bounded(limits: dict[str, int], reason: str):
    async with running(limits=replace(LIMITS, **limits)) as host, dialling() as client:
        assert await client.post_bulk(A.identity.id, host.address, b"x")
        assert await exchange(host, member_context(B), post("/bulk", b"second")) == b""
        assert host.server.dropped[reason] == 1
        assert await client.post_bulk(A.identity.id, host.address, b"y")


async def test_join_attempts_of_one_source_are_rate_limited():
    async with running(limits=replace(LIMITS, join_burst=3, join_every_s=60.0)) as host:
        _, leaf, _ = await fetch_roster(host.address)
        for _ in range(2):
            await send_join(host.address, leaf, b"guess")
        with pytest.raises(ValueError, match="too many join attempts"):
            await send_join(host.address, leaf, b"guess")
        assert len(host.joins) == 2


def test_token_buckets_refill_keep_sources_apart_and_stay_few():
    buckets = _TokenBuckets(burst=2, every_s=10.0, sources=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 0.0)
    assert [buckets.take("a", 10.0) for _ in range(2)] == [True, False]
    assert [buckets.take("a", 1000.0) for _ in range(3)] == [True, True, False]
    for n in range(100):
        buckets.take(str(n), 1000.0)
    assert len(buckets._state) == 3


async def test_a_taken_port_is_one_line_and_free_after_close():
    async with running() as host:
        with pytest.raises(ValueError, match="is taken: another agent or program listens there"):
            await Host().server.start(*host.address)
        address = host.address
    second = Host()
    await second.server.start(*address)
    await second.server.close()


# The key.


def test_the_private_key_stays_in_memory_and_out_of_logs():
    before = set(os.listdir("/proc/self/fd"))
    mine = own(A)
    server_context(mine, [MESH.anchor])
    client_context(mine, [MESH.anchor])
    assert set(os.listdir("/proc/self/fd")) == before
    assert "PRIVATE" not in repr(mine)
