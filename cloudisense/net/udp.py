"""One UDP socket: datagrams in and out, nothing understood, nothing raised for the network's faults."""

import asyncio
import errno
import ipaddress
import socket
from collections import Counter
from collections.abc import Callable
from typing import cast

from cloudisense.mesh.effects import Address

MAX_DATAGRAM = 2048
"""Bytes; the mesh keeps to what one Ethernet frame carries, and anything larger is not ours."""
MAX_SEND_BUFFER = 256 * 1024
"""Bytes that may wait in user space for a full socket; beyond it datagrams are dropped, as the network would."""
RECEIVE_BUFFER = 1 << 20


def bind_socket(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """A bound, non-blocking socket on an IP address. ``::`` takes IPv4 as well.

    Raises ``ValueError`` with one line: what is wrong with the address and what to change.
    """
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        raise ValueError(f"address {shown}: {host!r} is not an IP address; change [mesh] bind") from None
    if not 0 <= port < 65_536:
        raise ValueError(f"address {shown} cannot be used: a port is 0 to 65535; change [mesh] bind")
    try:
        bound = socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise ValueError(f"address {shown} cannot be used: {error.strerror}; change [mesh] bind") from None
    try:
        if version == 6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        if kind == socket.SOCK_STREAM:
            # For connections in TIME_WAIT after a restart; on Linux it does not let two programs listen.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(socket.getaddrinfo(host, port, type=kind, flags=socket.AI_NUMERICHOST)[0][4])
        if kind == socket.SOCK_STREAM:
            bound.listen(128)
    except OSError as error:
        bound.close()
        raise ValueError(_bind_failure(shown, error)) from None
    return bound


def _bind_failure(shown: str, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"address {shown} is taken: another agent or program listens there; change [mesh] bind"
        case errno.EADDRNOTAVAIL:
            return f"address {shown} is not on this host; change [mesh] bind"
        case errno.EACCES:
            return f"address {shown} is not allowed for this user (ports below 1024 are root's); change [mesh] bind"
        case _:
            return f"address {shown} cannot be used: {error.strerror or error}; change [mesh] bind"


def plain_address(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """A socket's address as the mesh writes it: IPv4 as IPv4 even on an IPv6 socket, the zone of a link-local one kept."""
    host, port = address[0], address[1]
    if host.startswith("::ffff:") and "." in host:
        return host[7:], port
    if len(address) == 4 and address[3] and "%" not in host:
        return f"{host}%{address[3]}", port
    return host, port


class UdpEndpoint(asyncio.DatagramProtocol):
    """A bound UDP socket. ``errors`` counts, by errno name, what the network refused; ``dropped`` what we did."""

    def __init__(self, family: int, on_datagram: Callable[[bytes, Address], None]) -> None:
        self.errors: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._family = family
        self._on_datagram = on_datagram
        self._transport: asyncio.DatagramTransport | None = None
        self._port = 0
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, host: str, port: int, on_datagram: Callable[[bytes, Address], None]) -> "UdpEndpoint":
        """Bind and listen; port 0 takes any. Raises ``ValueError`` with one line when the address cannot be had."""
        bound = bind_socket(host, port, socket.SOCK_DGRAM)
        # A burst (every node answers an alert at once) must fit; the kernel caps it at net.core.rmem_max by itself.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        family = bound.family
        loop = asyncio.get_running_loop()
        _, endpoint = await loop.create_datagram_endpoint(lambda: cls(family, on_datagram), sock=bound)
        return endpoint

    @property
    def port(self) -> int:
        """The port that we are bound to."""
        return self._port

    def send(self, address: Address, data: bytes) -> None:
        """Send ``data`` to an IP address. Never raises for the network's faults and never blocks on a name look-up."""
        if self._transport is None or self._transport.is_closing():
            self.errors["closed"] += 1
            return
        if self._buffered() + len(data) > MAX_SEND_BUFFER:
            self.errors["ENOBUFS"] += 1
            return
        try:
            self._transport.sendto(data, self._destination(address))
        except (OSError, ValueError, OverflowError) as error:
            self._count(error)

    def close(self) -> None:
        """Stop listening. What waits in the socket is sent first."""
        if self._transport is not None:
            self._transport.close()

    async def wait_closed(self) -> None:
        """Return once the socket is closed and its port free."""
        await self._closed

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio: the socket is ours."""
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._port = transport.get_extra_info("sockname")[1]

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the socket is closed."""
        if exc is not None:
            self._count(exc)
        if not self._closed.done():
            self._closed.set_result(None)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """asyncio: one datagram."""
        if len(data) > MAX_DATAGRAM:
            self.dropped["too large"] += 1
            return
        self._on_datagram(data, plain_address(addr))

    def error_received(self, exc: Exception) -> None:
        """asyncio: a send or a receive failed."""
        self._count(exc)

    def _buffered(self) -> int:
        # Documented for WriteTransport; asyncio's datagram transports have it too.
        size = getattr(self._transport, "get_write_buffer_size", None)
        return size() if size is not None else 0

    def _destination(self, address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
        host, port = address
        if not 0 < port < 65_536:
            raise ValueError("port out of range")
        parsed = ipaddress.ip_address(host)  # a name would make sendto() ask DNS and stall the loop
        if parsed.version == 4:
            return (f"::ffff:{parsed}", port) if self._family == socket.AF_INET6 else (host, port)
        if self._family != socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "an IPv6 address on an IPv4 socket")
        zone = parsed.scope_id if isinstance(parsed, ipaddress.IPv6Address) else None
        if zone is None:
            return host, port, 0, 0
        return host.partition("%")[0], port, 0, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)

    def _count(self, error: Exception) -> None:
        code = getattr(error, "errno", None)
        self.errors[errno.errorcode.get(code, str(code)) if code is not None else "EINVAL"] += 1
