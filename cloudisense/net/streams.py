"""Streams between nodes: HTTP/1.1 over TLS 1.3 on the TCP port of the mesh. This file: the server.

Who may ask what:
  no client certificate   GET /join/roster, POST /join, POST /renew: small, few at once, rate-limited by source address
  a member's certificate  the same, and POST /bulk
  any other certificate   nothing: the handshake fails
A member's key is checked against the roster when the handshake ends, before a byte of a request is read, and again
at each request, because connections outlive rosters. The client side is in ``dial``.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from aiohttp import web

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.tls import node_of
from cloudisense.net.contexts import TlsOwn, server_context
from cloudisense.net.dial import Busy, StreamClient, fetch_roster, send_join, send_renewal
from cloudisense.net.udp import bind_socket, plain_address

__all__ = ["Busy", "Limits", "StreamClient", "StreamServer", "TlsOwn", "fetch_roster", "send_join", "send_renewal"]

NodeId = bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what anybody can make this server hold or do. Seconds, bytes, counts."""

    bulk_bytes: int = 256 * 1024
    join_bytes: int = 16 * 1024
    connections: int = 512
    connections_node: int = 4
    handshakes: int = 64
    handshakes_source: int = 32
    strangers: int = 64
    """Connections without a certificate, all sources together."""
    strangers_source: int = 32
    join_burst: int = 128
    """Join requests that one source may make at once; then one each ``join_every_s``. A join is two, and a fleet of 50 may sit
    behind one address. A secret has 128 bits or more: it is the handshakes that are bounded here, 3 ms each, not the guesses."""
    join_every_s: float = 0.5
    sources: int = 1024
    """Source addresses remembered for the rate limit."""
    bodies: int = 64
    """Bulk bodies read at the same time."""
    handshake_s: float = 5.0
    request_s: float = 10.0
    """For headers and body to arrive, from the handshake or the first byte we wait for."""
    answer_s: float = 20.0
    """For a join to be decided, and its answer to be taken."""
    idle_s: float = 60.0


class _TokenBuckets:
    """One token bucket a source address; the least recently seen are forgotten first."""

    def __init__(self, burst: int, every_s: float, sources: int) -> None:
        self._burst, self._every_s, self._sources = burst, every_s, sources
        self._state: dict[str, tuple[float, float]] = {}

    def take(self, source: str, now_s: float) -> bool:
        tokens, since = self._state.pop(source, (float(self._burst), now_s))
        tokens = min(float(self._burst), tokens + (now_s - since) / self._every_s)
        allowed = tokens >= 1.0
        self._state[source] = (tokens - 1.0 if allowed else tokens, now_s)
        if len(self._state) > self._sources:
            del self._state[next(iter(self._state))]
        return allowed


class _Connection(asyncio.Protocol):
    """Stands between the TLS transport and aiohttp's handler: admits or aborts first, and holds the deadline."""

    def __init__(self, server: "StreamServer", inner: asyncio.Protocol, source: str) -> None:
        self.server, self.inner, self.source = server, inner, source
        self.node: NodeId | None = None
        self.transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        reason = self.server.admission(self)
        if reason:
            self.server.dropped[reason] += 1
            self.transport.abort()
            self.inner = asyncio.Protocol()  # aiohttp never hears of it
            return
        self.server.connections[self.transport] = self
        self.inner.connection_made(transport)
        self.expect_within(self.server.limits.request_s)

    def expect_within(self, seconds: float) -> None:
        """Abort unless this is called again within ``seconds``."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = asyncio.get_running_loop().call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self.server.dropped["too slow"] += 1
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self.transport is not None:
            self.server.connections.pop(self.transport, None)
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()


class StreamServer:
    """Accepts streams. ``dropped`` counts, by reason, what was turned away.

    ``admit(node)``: is this key in the mesh and not revoked. ``on_bulk(node, body)``: one bulk message.
    ``on_join(body, source_ip)``: answers a join request; ``RemoteProtocolError`` becomes a 400 with its reason.
    ``roster_chain()``: the signed rosters, oldest first. ``on_renew(body)``: answers a request for a new certificate, as ``on_join``.
    """

    def __init__(
        self,
        own: TlsOwn,
        anchors: Sequence[bytes],
        *,
        admit: Callable[[NodeId], bool],
        on_bulk: Callable[[NodeId, bytes], None],
        on_join: Callable[[bytes, str], Awaitable[bytes]],
        roster_chain: Callable[[], Sequence[bytes]],
        on_renew: Callable[[bytes], Awaitable[bytes]] | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.limits = limits
        self.dropped: Counter[str] = Counter()
        self.connections: dict[asyncio.Transport, _Connection] = {}
        self._own, self._context = own, server_context(own, anchors)
        self._admit, self._on_bulk, self._on_join, self._roster_chain = admit, on_bulk, on_join, roster_chain
        self._on_renew = on_renew
        self._joins = _TokenBuckets(limits.join_burst, limits.join_every_s, limits.sources)
        self._bodies = asyncio.Semaphore(limits.bodies)
        self._handshakes: dict[asyncio.Task[None], str] = {}
        self._http: web.Server | None = None
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises ``ValueError`` with one line when the address cannot be had."""
        self._listener = bind_socket(host, port, socket.SOCK_STREAM)
        self.port = self._listener.getsockname()[1]
        self._http = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=self.limits.idle_s,
            max_line_size=1024,
            max_field_size=1024,
            max_headers=32,
            lingering_time=0.0,
            auto_decompress=False,  # a few bytes that unpack to gigabytes
        )
        self._accepting = asyncio.create_task(self._accept(self._listener), name="stream server")

    async def close(self) -> None:
        """Stop listening and abort every connection."""
        tasks = [task for task in (self._accepting, *self._handshakes) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        for transport in list(self.connections):
            transport.abort()
        if self._http is not None:
            await self._http.shutdown(1.0)
        await asyncio.sleep(0)

    def update_anchors(self, anchors: Sequence[bytes], own: TlsOwn | None = None) -> None:
        """Trust these issuers, and show ``own``, from now on; connections of nodes that are no longer admitted end now."""
        self._own = own or self._own
        self._context = server_context(self._own, anchors)
        self.recheck()

    def recheck(self) -> None:
        """Abort the connections of nodes that ``admit`` no longer admits. Call it when the roster changed."""
        for transport, connection in list(self.connections.items()):
            if connection.node is not None and not self._admit(connection.node):
                self.dropped["not admitted"] += 1
                transport.abort()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listener)
            except OSError:
                # Out of descriptors, or the peer went before we looked: others must still get through.
                self.dropped["accept failed"] += 1
                await asyncio.sleep(0.05)
                continue
            source = plain_address(address)[0]
            reason = self._crowded(source)
            if reason:
                self.dropped[reason] += 1
                accepted.close()
                continue
            accepted.setblocking(False)
            task = asyncio.create_task(self._handshake(accepted, source))
            self._handshakes[task] = source
            task.add_done_callback(self._handshakes.pop)

    def _crowded(self, source: str) -> str:
        """Why not even a handshake, in order: the cheapest thing to check before the costly one to do."""
        if len(self.connections) + len(self._handshakes) >= self.limits.connections:
            return "too many connections"
        if len(self._handshakes) >= self.limits.handshakes:
            return "too many handshakes"
        if sum(other == source for other in self._handshakes.values()) >= self.limits.handshakes_source:
            return "too many handshakes of one source"
        return ""

    async def _handshake(self, accepted: socket.socket, source: str) -> None:
        loop = asyncio.get_running_loop()
        assert self._http is not None
        inner = self._http()
        try:
            await loop.connect_accepted_socket(
                lambda: _Connection(self, inner, source),
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=self.limits.handshake_s,
                ssl_shutdown_timeout=2.0,
            )
        except OSError:  # ssl.SSLError and time-outs among them
            self.dropped["handshake failed"] += 1
        except asyncio.CancelledError:
            accepted.close()
            raise

    def admission(self, connection: _Connection) -> str:
        """Why a connection whose handshake is done may not stay; empty when it may. Sets its node."""
        assert connection.transport is not None
        der = connection.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if der is None:
            strangers = [other.source for other in self.connections.values() if other.node is None]
            if len(strangers) >= self.limits.strangers or strangers.count(connection.source) >= self.limits.strangers_source:
                return "too many strangers"
            return ""
        try:
            connection.node = node_of(der)
        except RemoteProtocolError as error:
            return error.reason
        if not self._admit(connection.node):
            return "not admitted"
        if sum(other.node == connection.node for other in self.connections.values()) >= self.limits.connections_node:
            return "too many connections of one node"
        return ""

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = self.connections.get(cast(asyncio.Transport, request.transport))
        if connection is None:  # aborted while the request waited
            return web.Response(status=503)
        handler = _ROUTES.get((request.method, request.path))
        if handler is None:
            response = web.Response(status=404)
        else:
            try:
                async with asyncio.timeout(self.limits.answer_s):
                    response = await handler(self, request, connection)
            except TimeoutError:
                response = web.Response(status=504)
            except RemoteProtocolError as error:
                response = web.Response(status=400, text=error.reason)
        if response.status >= 400:
            self.dropped[f"status {response.status}"] += 1
        if response.status >= 400 or connection.node is None:
            response.force_close()
        # From here the answer must be taken, and the next request must have arrived whole, within one deadline.
        connection.expect_within(self.limits.idle_s if connection.node is not None else self.limits.request_s)
        return response

    async def _get_roster(self, request: web.BaseRequest, connection: _Connection) -> web.Response:
        if not self._joins.take(connection.source, asyncio.get_running_loop().time()):
            return web.Response(status=429)
        return web.Response(body=pack(list(self._roster_chain())), content_type="application/octet-stream")

    async def _post_join(self, request: web.BaseRequest, connection: _Connection) -> web.Response:
        if not self._joins.take(connection.source, asyncio.get_running_loop().time()):
            return web.Response(status=429)
        body = await _read(request, self.limits.join_bytes)
        if body is None:
            return web.Response(status=413)
        connection.expect_within(self.limits.answer_s + 2.0)
        answer = await self._on_join(body, connection.source)
        return web.Response(body=answer, content_type="application/octet-stream")

    async def _post_renew(self, request: web.BaseRequest, connection: _Connection) -> web.Response:
        """The body is signed by the node's own key: an expired certificate could not be shown in the handshake."""
        if self._on_renew is None:
            return web.Response(status=404)
        if not self._joins.take(connection.source, asyncio.get_running_loop().time()):
            return web.Response(status=429)
        body = await _read(request, self.limits.join_bytes)
        if body is None:
            return web.Response(status=413)
        return web.Response(body=await self._on_renew(body), content_type="application/octet-stream")

    async def _post_bulk(self, request: web.BaseRequest, connection: _Connection) -> web.Response:
        node = connection.node
        if node is None or not self._admit(node):
            return web.Response(status=403)
        if request.content_length is not None and request.content_length > self.limits.bulk_bytes:
            return web.Response(status=413)
        async with self._bodies:
            connection.expect_within(self.limits.request_s)
            body = await _read(request, self.limits.bulk_bytes)
        if body is None:
            return web.Response(status=413)
        self._on_bulk(node, body)
        return web.Response(status=204)


_Handler = Callable[[StreamServer, web.BaseRequest, _Connection], Awaitable[web.Response]]
_ROUTES: dict[tuple[str, str], _Handler] = {
    ("GET", "/join/roster"): StreamServer._get_roster,
    ("POST", "/join"): StreamServer._post_join,
    ("POST", "/renew"): StreamServer._post_renew,
    ("POST", "/bulk"): StreamServer._post_bulk,
}


async def _read(request: web.BaseRequest, limit: int) -> bytes | None:
    """The body, or ``None`` when it is larger than ``limit``; what a header promises is not believed."""
    if request.content_length is not None and request.content_length > limit:
        return None
    body = bytearray()
    async for chunk in request.content.iter_any():
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)
