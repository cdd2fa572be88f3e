"""The operator's quick revocation: a key is out at once, for seven days, until a roster says so for good (DESIGN section 3.1).

It spreads as a signed claim. It can name no issuer: that would cut off every node that the issuer certified, and is for the root.
"""

import hashlib

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import NODE_ID_BYTES, Identity
from cloudisense.keys.roster import MAX_REVOKED, Roster
from cloudisense.mesh.instant import Instant

REVOCATION = "revocation"
MAX_REVOCATION_BYTES = 512
VALID_MS = 7 * 86_400_000
SKEW_MS = 3_600_000
"""An operator's clock may run this far ahead of ours."""
KEPT_MS = 30 * 86_400_000
MAX_KEPT = 64


class Revocation(msgspec.Struct, frozen=True, array_like=True):
    """``node`` has no rights for seven days from ``issued_ms`` (Unix time)."""

    node: bytes
    issued_ms: int

    def __post_init__(self) -> None:
        if len(self.node) != NODE_ID_BYTES or not 0 <= self.issued_ms < 2**53:
            raise ValueError("revocation: a field is out of bounds")


def seal_revocation(operator: Identity, mesh_id: bytes, node: bytes, issued_ms: int) -> bytes:
    """The claim by which ``operator`` revokes ``node``."""
    return seal(operator, REVOCATION, mesh_id, pack(Revocation(node, issued_ms)))


class Revocations:
    """The quick revocations known here, one a node, bounded. Which of them hold depends on the roster and on the time."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, bytes, Revocation]] = {}

    def claims(self) -> tuple[bytes, ...]:
        """The signed claims, sorted by the node that they revoke."""
        return tuple(self._known[node][1] for node in sorted(self._known))

    def sum(self) -> int:
        """Eight bytes over all of them, for the digest."""
        return sum(int.from_bytes(hashlib.sha256(claim).digest()[:8], "big") for _, claim, _ in self._known.values())

    def take(self, claim: bytes, roster: Roster, mesh_id: bytes, now: Instant) -> bool:
        """Learn one; False when it says nothing new. Raises ``RemoteProtocolError`` for one that never should have been made."""
        if any(claim == known for _, known, _ in self._known.values()):
            return False
        envelope = open_envelope(claim, mesh_id, REVOCATION, MAX_REVOCATION_BYTES)
        found = unpack(envelope.body, Revocation, MAX_REVOCATION_BYTES)
        if envelope.signer not in roster.operators or roster.is_revoked(envelope.signer):
            raise RemoteProtocolError("revocation by a key that is no operator", envelope.signer)
        if roster.issuer(found.node) is not None or found.node in roster.roots:
            raise RemoteProtocolError("revocation of an issuer or root", envelope.signer)
        if now.wall_trusted and found.issued_ms > now.wall_ms + SKEW_MS:
            raise RemoteProtocolError("revocation from the future", envelope.signer)
        before = self._known.get(found.node)
        if roster.is_revoked(found.node) or _forgotten(found, now):
            return False
        # Of two for one node the later holds; for the same time, any, but the same one everywhere.
        if before is not None and (before[2].issued_ms, before[1]) >= (found.issued_ms, claim):
            return False
        if before is None and len(self._known) >= MAX_KEPT:
            raise RemoteProtocolError("too many revocations", envelope.signer)
        self._known[found.node] = (envelope.signer, claim, found)
        return True

    def revoked(self, roster: Roster, now: Instant) -> tuple[bytes, ...]:
        """The keys that are out now beside those of ``roster``, sorted. What a roster confirms or whose operator is gone is dropped."""
        for node, (operator, _, found) in sorted(self._known.items()):
            gone = roster.is_revoked(node) or operator not in roster.operators or roster.is_revoked(operator)
            if gone or roster.issuer(node) is not None or _forgotten(found, now):
                del self._known[node]
        # Without a clock to trust, better shut out for too long than let in too early.
        holding = [n for n, (_, _, found) in self._known.items() if not now.wall_trusted or now.wall_ms < found.issued_ms + VALID_MS]
        return tuple(sorted(holding))[: MAX_REVOKED - len(roster.revoked)]


def _forgotten(found: Revocation, now: Instant) -> bool:
    """Over for so long that no clock of the mesh can still think that it holds."""
    return now.wall_trusted and now.wall_ms >= found.issued_ms + KEPT_MS
