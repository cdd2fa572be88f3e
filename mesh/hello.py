"""First contact: three signed messages in the clear, and no state or derived key before the other side proved its address.

    us -> them   hello(token=cookie(them))                     signed alive claim and certificate
    them -> us   hello(token=cookie(us), echo=our token)       now we know them
    us -> them   hello(echo=their token)                       now they know us

A token is a keyed hash of the address that it is sent to, so nothing is stored per stranger; a reply is never longer than
three times what drew it (DESIGN section 3.1; compare RFC 9000 section 8.1).
"""

import hashlib
import hmac
from dataclasses import dataclass

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.session import HELLO
from cloudisense.mesh.effects import Address
from cloudisense.mesh.instant import NS_PER_S, Instant
from cloudisense.mesh.limits import Limits

PREFIX = bytes([1, HELLO])
TOKEN_BYTES = 16
AMPLIFICATION = 3
"""How many times what came in may go back to an address that nobody proved."""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """``to`` is the recipient's node id where it is known. ``echo`` repeats the token that this answers."""

    claim: bytes
    certificate: bytes
    to: bytes
    token: bytes
    echo: bytes


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_ns: int


class HelloLimiter:
    """Token buckets per source address and for all of them together, in bounded memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sources: dict[str, _Bucket] = {}
        self._all = _Bucket(limits.hellos_s, 0)

    def allow(self, host: str, now: Instant) -> bool:
        """May one hello from ``host`` be answered now?"""
        if host not in self._sources:
            if len(self._sources) >= self._limits.sources:
                self._sources.pop(min(self._sources, key=lambda h: (self._sources[h].filled_ns, h)))
            self._sources[host] = _Bucket(self._limits.hellos_per_source_s, now.boot_ns)
        return self._take(self._sources[host], self._limits.hellos_per_source_s, now) and self._take(self._all, self._limits.hellos_s, now)

    @staticmethod
    def _take(bucket: _Bucket, rate_s: int, now: Instant) -> bool:
        bucket.tokens = min(rate_s, bucket.tokens + (now.boot_ns - bucket.filled_ns) * rate_s / NS_PER_S)
        bucket.filled_ns = now.boot_ns
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


class Greeter:
    """Builds and checks hellos; the mesh decides what to do with a proven one."""

    def __init__(self, identity: Identity, mesh_id: bytes, secret: bytes, limits: Limits) -> None:
        self._identity = identity
        self._mesh_id = mesh_id
        self._secret = secret
        self._limits = limits

    def token(self, address: Address) -> bytes:
        """The cookie for ``address``: only who receives there can echo it."""
        return hmac.digest(self._secret, f"{address[0]}|{address[1]}".encode(), hashlib.sha256)[:TOKEN_BYTES]

    def hello(self, claim: bytes, certificate: bytes, address: Address, to: bytes, echo: bytes, ask: bool) -> bytes:
        """A hello for ``address``; with ``ask`` it carries a token, to be echoed."""
        body = Hello(claim, certificate, to, self.token(address) if ask else b"", echo)
        return PREFIX + seal(self._identity, "hello", self._mesh_id, pack(body))

    def read(self, datagram: bytes) -> Hello:
        """The content of a hello, its signature not yet checked: enough to decide whether to answer at all."""
        limit = 3 * self._limits.claim_bytes
        return unpack(unpack(datagram[len(PREFIX) :], tuple[str, bytes, bytes, bytes], limit)[1], Hello, limit)

    def claimed_signer(self, datagram: bytes) -> bytes:
        """Who says that it signed this hello; unproven, good only for addressing the answer."""
        return unpack(datagram[len(PREFIX) :], tuple[str, bytes, bytes, bytes], 3 * self._limits.claim_bytes)[2]

    def proven(self, datagram: bytes, source: Address) -> tuple[bytes, Hello]:
        """The signer and content of a hello that echoes our token for ``source``. Raises ``RemoteProtocolError``."""
        hello = self.read(datagram)
        # Before the signature: a flood costs a hash each, not a curve operation.
        if not hmac.compare_digest(hello.echo, self.token(source)) or hello.to != self._identity.id:
            raise RemoteProtocolError("hello without our token")
        envelope = open_envelope(datagram[len(PREFIX) :], self._mesh_id, "hello", 3 * self._limits.claim_bytes)
        return envelope.signer, hello
