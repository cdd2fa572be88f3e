"""Streams between nodes, the client side: bulk messages to members, and the two requests of a joiner.

A member is dialled by name, ``<base32 id>.mesh``, resolved to the address that the mesh gave: so the name that TLS
verifies and the key under which a connection is kept for reuse are the node itself, never its address.
"""

import asyncio
import errno
import hashlib
import socket
import ssl
from collections import Counter
from collections.abc import Sequence

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.tls import host_name, node_of
from cloudisense.mesh.address import address_text as _shown
from cloudisense.mesh.effects import Address
from cloudisense.net.contexts import TlsOwn, client_context, first_contact_context

MAX_ROSTER_BYTES = 1 << 20
MAX_JOIN_ANSWER_BYTES = 1 << 20
MAX_WAITING_NODE = 32
"""Bulk messages that may wait for one peer; the mesh repairs what is dropped."""
MAX_WAITING_BYTES = 16 << 20
MAX_CONNECTIONS = 64
KEEPALIVE_S = 30.0
"""Below the server's idle time, so that it is we who close."""
BULK_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 5.0
JOIN_TIMEOUT_S = 30.0


class _NodeResolver(AbstractResolver):
    """Answers for the nodes that are being dialled, and for nothing else: no DNS."""

    def __init__(self) -> None:
        self.hosts: dict[str, str] = {}

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """aiohttp: the address of ``host``."""
        numeric = self.hosts.get(host)
        if numeric is None:
            raise OSError(errno.EHOSTUNREACH, "not a node that is being dialled")
        found = socket.getaddrinfo(numeric, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [
            ResolveResult(hostname=host, host=numeric, port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST)
            for kind, _, protocol, _, _ in found
        ]

    async def close(self) -> None:
        """aiohttp: nothing to close."""


class StreamClient:
    """Sends bulk messages to members. ``errors`` counts what failed, by reason; nothing is raised.

    One message at a time to a node, over a connection that is kept; the messages to one node arrive in order.
    Make it inside a running loop.
    """

    def __init__(self, own: TlsOwn, anchors: Sequence[bytes]) -> None:
        self.errors: Counter[str] = Counter()
        self._own, self._context = own, client_context(own, anchors)
        self._resolver = _NodeResolver()
        self._turns: dict[bytes, asyncio.Lock] = {}
        self._waiting: Counter[bytes] = Counter()
        self._waiting_bytes = 0
        self._closed = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=MAX_CONNECTIONS, limit_per_host=1, use_dns_cache=False, keepalive_timeout=KEEPALIVE_S, resolver=self._resolver
            ),
            timeout=aiohttp.ClientTimeout(total=BULK_TIMEOUT_S, sock_connect=CONNECT_TIMEOUT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
        )

    def update_anchors(self, anchors: Sequence[bytes], own: TlsOwn | None = None) -> None:
        """Trust these issuers, and show ``own``, for connections made from now on; those made before are not used again."""
        self._own = own or self._own
        self._context = client_context(self._own, anchors)

    async def post_bulk(self, node: bytes, address: Address, data: bytes) -> bool:
        """Deliver ``data`` to ``node``, and to nobody else, at ``address`` (an IP address). Whether it was taken."""
        if self._closed:
            return self._failed("closed")
        if self._waiting[node] >= MAX_WAITING_NODE or self._waiting_bytes + len(data) > MAX_WAITING_BYTES:
            return self._failed("queue full")
        turn = self._turns.setdefault(node, asyncio.Lock())
        self._waiting[node] += 1
        self._waiting_bytes += len(data)
        try:
            async with turn:
                return await self._post(node, address, data)
        finally:
            self._waiting_bytes -= len(data)
            self._waiting[node] -= 1
            if not self._waiting[node]:
                del self._waiting[node], self._turns[node]

    async def close(self) -> None:
        """Close every connection; what is on its way may be lost."""
        self._closed = True
        await self._session.close()

    async def _post(self, node: bytes, address: Address, data: bytes) -> bool:
        name = host_name(node)
        self._resolver.hosts[name] = address[0]
        try:
            async with self._session.post(
                f"https://{name}:{address[1]}/bulk", data=data, ssl=self._context, server_hostname=name, allow_redirects=False
            ) as response:
                return True if response.status == 204 else self._failed(f"status {response.status}")
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: closed under our feet
            return self._failed(_reason(error))
        finally:
            self._resolver.hosts.pop(name, None)

    def _failed(self, reason: str) -> bool:
        self.errors[reason] += 1
        return False


def _reason(error: Exception) -> str:
    """One stable word or two for an error of the network or the peer."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        return "wrong certificate"
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return "tls"
    if isinstance(error, OSError) and error.errno is not None and error.errno in errno.errorcode:
        return errno.errorcode[error.errno]
    return "disconnected" if isinstance(error, aiohttp.ClientConnectionError) else "protocol"


class Busy(ValueError):
    """The peer has no room for us now, and has done nothing: try again in a moment."""


async def fetch_roster(address: Address, timeout_s: float = CONNECT_TIMEOUT_S) -> tuple[bytes, bytes, list[bytes]]:
    """Whom we reach at ``address``: its node id, its leaf certificate (DER), and the roster chain that it shows.

    Nothing is verified but that the peer holds the leaf's key: the caller checks the chain down to the mesh id, and the
    node against the invite's issuer, before it sends a secret with ``send_join``. Raises ``ValueError``, one line.
    """
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(*address, ssl=first_contact_context(), ssl_shutdown_timeout=1.0)
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        node = node_of(leaf)
    except (OSError, RemoteProtocolError, TimeoutError, TypeError, OverflowError) as error:
        raise _unreachable(address, error) from None
    answer = await _ask(address, leaf, "GET", "/join/roster", None, MAX_ROSTER_BYTES, timeout_s)
    try:
        return node, leaf, unpack(answer, list[bytes], MAX_ROSTER_BYTES)
    except RemoteProtocolError as error:
        raise _unreachable(address, error) from None


async def send_join(address: Address, leaf_der: bytes, body: bytes, timeout_s: float = JOIN_TIMEOUT_S) -> bytes:
    """Send a join request to exactly the key that ``fetch_roster`` met and the caller checked; the answer.

    ``body`` does not leave this host unless the peer shows ``leaf_der`` again. Raises ``ValueError``, one line.
    """
    return await _ask(address, leaf_der, "POST", "/join", body, MAX_JOIN_ANSWER_BYTES, timeout_s)


async def send_renewal(address: Address, leaf_der: bytes, body: bytes, timeout_s: float = JOIN_TIMEOUT_S) -> bytes:
    """As ``send_join``, for the request of a member that wants a new certificate."""
    return await _ask(address, leaf_der, "POST", "/renew", body, MAX_JOIN_ANSWER_BYTES, timeout_s)


async def _ask(address: Address, leaf_der: bytes, method: str, path: str, body: bytes | None, limit: int, timeout_s: float) -> bytes:
    # The connector's fingerprint pins the peer; the request's context makes it TLS 1.3. aiohttp uses both.
    connector = aiohttp.TCPConnector(ssl=aiohttp.Fingerprint(hashlib.sha256(leaf_der).digest()), force_close=True)
    timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
        try:
            async with session.request(
                method, f"https://{_shown(address)}{path}", data=body, ssl=first_contact_context(), allow_redirects=False
            ) as response:
                answer = await _read_answer(response, limit)
        except aiohttp.ServerFingerprintMismatch:
            raise ValueError(f"{_shown(address)} showed another key than a moment ago; nothing was sent to it") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _unreachable(address, error, secret_kept=body is None) from None
    if response.status == 429:
        raise Busy(f"{_shown(address)} has had too many join attempts from here; try again in a minute")
    if answer is None or response.status not in (200, 400):
        raise ValueError(f"{_shown(address)} answered, but not as a CloudiSENSE agent does (status {response.status})")
    if response.status == 400:
        words = "".join(letter if letter.isprintable() else "?" for letter in answer[:200].decode("utf-8", "replace"))
        raise ValueError(f"{_shown(address)} refused: {words}")
    return answer


async def _read_answer(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    answer = bytearray()
    async for chunk in response.content.iter_any():
        answer += chunk
        if len(answer) > limit:
            return None
    return bytes(answer)


def _unreachable(address: Address, error: Exception, secret_kept: bool = True) -> ValueError:
    shown = _shown(address)
    if isinstance(error, TimeoutError):
        return ValueError(f"{shown} did not answer in time; is it the right address, and does a firewall let TCP and UDP through?")
    if isinstance(error, (ssl.SSLError, aiohttp.ClientSSLError, RemoteProtocolError, TypeError)):
        return ValueError(f"{shown} answered, but it is not a CloudiSENSE agent")
    if isinstance(error, ConnectionRefusedError):
        return ValueError(f"{shown} refused the connection: no agent listens there; is it up, and is the port right?")
    if isinstance(error, (ConnectionResetError, aiohttp.ServerDisconnectedError, aiohttp.ClientPayloadError)):
        return (Busy if secret_kept else ValueError)(f"{shown} ended the connection; it is not a CloudiSENSE agent, or a very busy one")
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionResetError):
        return Busy(f"{shown} ended the connection before it stood; it is very busy")
    if isinstance(error, OSError):
        return ValueError(f"{shown} cannot be reached: {error.strerror or error}")
    return ValueError(f"{shown} answered, but it is not a CloudiSENSE agent")
