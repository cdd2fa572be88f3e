"""The operator's quick revocation: a key is out at once, for seven days, until a roster says so for good (DESIGN section 3.1).

It spreads as a signed claim. It can name no issuer: that would cut off every node that the issuer certified, and is for the root.
The same holds for keys that were replaced (``keys.handover``): they are out until their certificates are of no use any more.
"""

import hashlib

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.handover import SUCCESSION, Replaced, open_succession
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
REPLACED_MS = 121 * 86_400_000
"""A replaced key is remembered for so long: a certificate holds 90 days, and is renewed for 30 days more, never for this key."""
MAX_REPLACED = 128


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
    """The quick revocations and the replaced keys known here, one a node, bounded. Which of them hold depends on roster and time."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[bytes, bytes, Revocation]] = {}
        self._replaced: dict[bytes, tuple[bytes, Replaced]] = {}

    def claims(self) -> tuple[bytes, ...]:
        """The signed claims, each kind sorted by the node that it is about."""
        quick = tuple(self._known[node][1] for node in sorted(self._known))
        return quick + tuple(self._replaced[node][0] for node in sorted(self._replaced))

    def sum(self) -> int:
        """Eight bytes over all of them, for the digest."""
        return sum(int.from_bytes(hashlib.sha256(claim).digest()[:8], "big") for claim in self.claims())

    def replaced(self) -> tuple[tuple[bytes, bytes], ...]:
        """(key, its successor) of the keys that were replaced and that no roster has revoked for good yet, sorted."""
        return tuple((node, self._replaced[node][1].successor) for node in sorted(self._replaced))

    def take(self, claim: bytes, roster: Roster, mesh_id: bytes, now: Instant, issuers: frozenset[bytes] = frozenset()) -> bool:
        """Learn one; False when it says nothing new. Raises ``RemoteProtocolError`` for one that never should have been made.

        ``issuers``: every key that was an issuer once.
        """
        if claim in self.claims():
            return False
        if read_envelope(claim, MAX_REVOCATION_BYTES).type == SUCCESSION:
            return self._take_succession(claim, roster, mesh_id, now, issuers)
        envelope = open_envelope(claim, mesh_id, REVOCATION, MAX_REVOCATION_BYTES)
        found = unpack(envelope.body, Revocation, MAX_REVOCATION_BYTES)
        if envelope.signer not in roster.operators or roster.is_revoked(envelope.signer):
            raise RemoteProtocolError("revocation by a key that is no operator", envelope.signer)
        if _is_pillar(found.node, roster):
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

    def _take_succession(self, claim: bytes, roster: Roster, mesh_id: bytes, now: Instant, issuers: frozenset[bytes]) -> bool:
        found = open_succession(claim, mesh_id)
        # One that is no issuer any more counts, too: what it bore out must not give a retired key its rights back.
        if found.issuer not in issuers:
            raise RemoteProtocolError("succession by a key that is no issuer", found.issuer)
        if _is_pillar(found.node, roster):
            raise RemoteProtocolError("succession of an issuer or root", found.issuer)
        if now.wall_trusted and found.issued_ms > now.wall_ms + SKEW_MS:
            raise RemoteProtocolError("succession from the future", found.issuer)
        before = self._replaced.get(found.node)
        if roster.is_revoked(found.node) or _useless(found, now):
            return False
        # Two issuers that did not hear of each other: the first holds, and the same one everywhere.
        if before is not None and (before[1].issued_ms, before[0]) <= (found.issued_ms, claim):
            return False
        if before is None and len(self._replaced) >= MAX_REPLACED:
            raise RemoteProtocolError("too many replaced keys", found.issuer)
        self._replaced[found.node] = (claim, found)
        return True

    def revoked(self, roster: Roster, now: Instant) -> tuple[bytes, ...]:
        """The keys that are out now beside those of ``roster``, sorted. What a roster confirms or whose operator is gone is dropped."""
        for node, (operator, _, found) in sorted(self._known.items()):
            gone = roster.is_revoked(node) or operator not in roster.operators or roster.is_revoked(operator)
            if gone or roster.issuer(node) is not None or _forgotten(found, now):
                del self._known[node]
        for node, (_, found) in sorted(self._replaced.items()):
            if roster.is_revoked(node) or _is_pillar(node, roster) or _useless(found, now):
                del self._replaced[node]
        # Without a clock to trust, better shut out for too long than let in too early.
        holding = [n for n, (_, _, found) in self._known.items() if not now.wall_trusted or now.wall_ms < found.issued_ms + VALID_MS]
        return tuple(sorted({*holding, *self._replaced}))[: MAX_REVOKED - len(roster.revoked)]


def _forgotten(found: Revocation, now: Instant) -> bool:
    """Over for so long that no clock of the mesh can still think that it holds."""
    return now.wall_trusted and now.wall_ms >= found.issued_ms + KEPT_MS


def _useless(found: Replaced, now: Instant) -> bool:
    """No certificate of the replaced key can hold any more."""
    return now.wall_trusted and now.wall_ms >= found.issued_ms + REPLACED_MS


def _is_pillar(node: bytes, roster: Roster) -> bool:
    """Others' rights hang on this key; only the root changes it."""
    return roster.issuer(node) is not None or node in roster.roots
