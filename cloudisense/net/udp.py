"""One UDP socket: datagrams in and out, nothing understood, nothing raised for the network's faults."""

import asyncio
import errno
import ipaddress
import socket
import struct
from collections import Counter, deque
from collections.abc import Callable

from cloudisense.mesh.effects import Address

MAX_DATAGRAM = 2048
"""Bytes; the mesh keeps to what one Ethernet frame carries, and anything larger is not ours."""
MAX_SEND_BUFFER = 256 * 1024
"""Bytes that may wait in user space for a full socket; beyond it datagrams are dropped, as the network would."""
RECEIVE_BUFFER = 1 << 20
READS_A_TURN = 64
SEND_ATTEMPTS = 4
"""How many pending errors of other addresses one send may run into."""

IP_RECVERR = 11
IPV6_RECVERR = 25
"""Linux, <linux/in.h> and <linux/in6.h>; the socket module does not name them."""
_ERROR_MESSAGES = ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR))
_EXTENDED_ERROR = struct.Struct("=IBBB")
_PORT_UNREACHABLE = ((2, 3, 3), (3, 1, 4))
"""(origin, type, code): SO_EE_ORIGIN_ICMP with RFC 792's 3/3, SO_EE_ORIGIN_ICMP6 with RFC 4443's 1/4."""


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


class UdpEndpoint:
    """A bound UDP socket. ``errors`` counts, by errno name, what the network refused; ``dropped`` what we did.

    ICMP errors are read from the socket's error queue, with the address that they are about (ip(7), IP_RECVERR). Without that
    the kernel reports a dead peer on the next send to a live one, and that datagram is lost.
    """

    def __init__(
        self,
        bound: socket.socket,
        on_datagram: Callable[[bytes, Address], None],
        on_refused: Callable[[Address], None],
        on_send_failed: Callable[[], None],
    ) -> None:
        self.errors: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._socket = bound
        self._on_datagram = on_datagram
        self._on_refused = on_refused
        self._on_send_failed = on_send_failed
        self._waiting: deque[tuple[bytes, tuple[str, int] | tuple[str, int, int, int]]] = deque()
        self._waiting_bytes = 0
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(bound, self._readable)

    @classmethod
    async def open(
        cls,
        host: str,
        port: int,
        on_datagram: Callable[[bytes, Address], None],
        on_refused: Callable[[Address], None] = lambda address: None,
        on_send_failed: Callable[[], None] = lambda: None,
    ) -> "UdpEndpoint":
        """Bind and listen; port 0 takes any. Raises ``ValueError`` with one line when the address cannot be had.

        ``on_refused(address)``: nobody listens there, says its host. ``on_send_failed()``: this host would not send.
        """
        bound = bind_socket(host, port, socket.SOCK_DGRAM)
        # A burst (every node answers an alert at once) must fit; the kernel caps it at net.core.rmem_max by itself.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        bound.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
        return cls(bound, on_datagram, on_refused, on_send_failed)

    @property
    def port(self) -> int:
        """The port that we are bound to."""
        return self._socket.getsockname()[1] if self._open else 0

    def send(self, address: Address, data: bytes) -> None:
        """Send ``data`` to an IP address. Never raises for the network's faults and never blocks on a name look-up."""
        if not self._open:
            self.errors["closed"] += 1
            return
        try:
            destination = self._destination(address)
        except (OSError, ValueError, OverflowError) as error:
            self._count(error)
            return
        if self._waiting or not self._send_now(data, destination):
            self._queue(data, destination)

    def close(self) -> None:
        """Stop listening, after what waits in our buffer had one more chance."""
        if self._open:
            self._writable()
            self._open = False
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()

    def _send_now(self, data: bytes, destination: tuple[str, int] | tuple[str, int, int, int]) -> bool:
        """Whether the kernel has taken it, or refused it for good. A pending error of another address costs no datagram."""
        for _ in range(SEND_ATTEMPTS):
            try:
                self._socket.sendto(data, destination)
                return True
            except BlockingIOError:
                return False
            except OSError as error:
                if not self._drain_errors() and error.errno != errno.ECONNREFUSED:
                    self._count(error)
                    self._on_send_failed()
                    return True
        self.errors["ECONNREFUSED"] += 1
        return True

    def _queue(self, data: bytes, destination: tuple[str, int] | tuple[str, int, int, int]) -> None:
        if self._waiting_bytes + len(data) > MAX_SEND_BUFFER:
            self.errors["ENOBUFS"] += 1
            return
        if not self._waiting:
            self._loop.add_writer(self._socket, self._writable)
        self._waiting.append((data, destination))
        self._waiting_bytes += len(data)

    def _writable(self) -> None:
        while self._waiting and self._send_now(*self._waiting[0]):
            self._waiting_bytes -= len(self._waiting.popleft()[0])
        if not self._waiting:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        """A bounded number of datagrams a turn, so that a flood leaves the loop time for others."""
        for _ in range(READS_A_TURN):
            try:
                data, address = self._socket.recvfrom(MAX_DATAGRAM + 1)
            except BlockingIOError:
                self._drain_errors()
                return
            except OSError as error:
                if not self._drain_errors():
                    self._count(error)
                    return
                continue
            if len(data) > MAX_DATAGRAM:
                self.dropped["too large"] += 1
            else:
                self._on_datagram(data, plain_address(address))
            if not self._open:
                return

    def _drain_errors(self) -> bool:
        """Read the error queue; true when there was something in it."""
        found = False
        for _ in range(READS_A_TURN):
            try:
                _, ancillary, _, address = self._socket.recvmsg(0, 512, socket.MSG_ERRQUEUE)
            except OSError:
                return found
            found = True
            for level, kind, data in ancillary:
                if (level, kind) in _ERROR_MESSAGES and len(data) >= _EXTENDED_ERROR.size:
                    self._extended_error(data, address)
        return found

    def _extended_error(self, data: bytes, address: tuple[str, int]) -> None:
        """``struct sock_extended_err`` (ip(7)): which error, and whether the host it is about sent it."""
        code, origin, kind, icmp_code = _EXTENDED_ERROR.unpack_from(data)
        self.errors[errno.errorcode.get(code, str(code))] += 1
        if (origin, kind, icmp_code) in _PORT_UNREACHABLE:
            self._on_refused(plain_address(address))

    def _destination(self, address: Address) -> tuple[str, int] | tuple[str, int, int, int]:
        host, port = address
        if not 0 < port < 65_536:
            raise ValueError("port out of range")
        parsed = ipaddress.ip_address(host)  # a name would make sendto() ask DNS and stall the loop
        if parsed.version == 4:
            return (f"::ffff:{parsed}", port) if self._socket.family == socket.AF_INET6 else (host, port)
        if self._socket.family != socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "an IPv6 address on an IPv4 socket")
        zone = parsed.scope_id if isinstance(parsed, ipaddress.IPv6Address) else None
        if zone is None:
            return host, port, 0, 0
        return host.partition("%")[0], port, 0, int(zone) if zone.isdigit() else socket.if_nametoindex(zone)

    def _count(self, error: Exception) -> None:
        code = getattr(error, "errno", None)
        self.errors[errno.errorcode.get(code, str(code)) if code is not None else "EINVAL"] += 1
