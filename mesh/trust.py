"""The roster that holds now. A node keeps the newest it has seen, proven link by link from the first, and never an older one.

``roster`` is what everybody here asks: the signed one, and what operators have revoked since (``mesh.revocation``).
"""

import hashlib
from collections.abc import Collection

import msgspec

from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.roster import Roster, check_chain, mesh_id_of, newer, read_roster
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.revocation import Revocations

MAX_CHAIN = 1000
RIVAL = "rival roster"


class Trust:
    """The roster chain of one mesh, oldest first. The mesh id is the hash of the first roster."""

    def __init__(self, chain: tuple[bytes, ...], rival: tuple[bytes, ...] = ()) -> None:
        self.mesh_id = mesh_id_of(chain[0])
        self.chain = chain
        self.signed: Roster = check_chain(chain, self.mesh_id)
        self.roster: Roster = self.signed
        self.revocations = Revocations()
        self.rival = rival
        """Another chain that the root signed: an alarm, until a roster upholds one of the two."""
        self._issuers = _issuers_of(chain)
        self._lengths: dict[bytes, int] = {}
        self.version = 0
        """Rises whenever ``roster`` changes."""

    def offer(self, chain: tuple[bytes, ...]) -> bool:
        """Take ``chain`` if it proves a newer roster; False when ours is as new. Raises ``RemoteProtocolError``.

        Two that part somewhere are two successors signed by the root: an alarm, not a choice. What ends it is a roster of the one
        that revokes the first roster of the other by its hash (``keys.succession.upholding``), signed by the roots of both.
        """
        if len(chain) > MAX_CHAIN:
            raise RemoteProtocolError("roster chain too long")
        fork = parting(self.chain, chain)
        if fork is not None:
            return self._offer_other(chain, fork)
        if len(chain) <= len(self.chain):
            return False
        # What we have is proven: a bad link must not cost the whole chain again.
        self._take(chain, self._proven(self.signed, chain[len(self.chain) :]))
        return True

    def _offer_other(self, chain: tuple[bytes, ...], fork: int) -> bool:
        """A chain that parts from ours at ``fork``."""
        if fork == 0:
            raise RemoteProtocolError("roster chain is of another mesh")
        if self.signed.is_revoked(roster_hash(chain[fork])):
            return False  # settled long ago
        if chain == self.rival:
            raise RemoteProtocolError(RIVAL)
        common = read_roster(self.chain[fork - 1])
        roster = self._proven(common, chain[fork:])
        # A root key that was given up must not undo that: no rotation of the root is ever overruled.
        same_roots = all((r.roots, r.threshold) == (common.roots, common.threshold) for r in (roster, self.signed))
        if same_roots and roster.number > self.signed.number and roster.is_revoked(roster_hash(self.chain[fork])):
            self._take(chain, roster)
            return True
        self.rival = self.rival or chain
        raise RemoteProtocolError(RIVAL)

    def _proven(self, roster: Roster, links: tuple[bytes, ...]) -> Roster:
        for data in links:
            following = newer(roster, data, self.mesh_id)
            if isinstance(following, Refused):
                raise RemoteProtocolError("roster number does not rise")
            roster = following
        return roster

    def _take(self, chain: tuple[bytes, ...], roster: Roster) -> None:
        self.signed, self.chain = roster, chain
        self._issuers |= _issuers_of(chain)
        fork = parting(chain, self.rival)
        if fork is None or roster.is_revoked(roster_hash(self.rival[fork])):
            self.rival = ()

    def heard(self, peer: bytes, length: int) -> None:
        """``peer`` says that its chain has ``length`` rosters."""
        self._lengths[peer] = length

    def behind(self, present: Collection[bytes]) -> bool:
        """Do others hold more rosters than were proven to us? Two have to say so, if there are two: one could lie."""
        ahead = sum(self._lengths.get(node, 0) > len(self.chain) for node in present)
        return 0 < min(2, len(present)) <= ahead

    def revoke(self, claim: bytes, now: Instant) -> bool:
        """Learn an operator's revocation, or that a key was replaced; true when it is new. Raises ``RemoteProtocolError``."""
        return self.revocations.take(claim, self.signed, self.mesh_id, now, self._issuers)

    def refresh(self, now: Instant) -> bool:
        """Bring ``roster`` up to date; true when it changed."""
        quick = self.revocations.revoked(self.signed, now)
        roster = msgspec.structs.replace(self.signed, revoked=(*self.signed.revoked, *quick)) if quick else self.signed
        if roster == self.roster:
            return False
        self.roster = roster
        self.version += 1
        return True


def _issuers_of(chain: tuple[bytes, ...]) -> frozenset[bytes]:
    return frozenset(issuer.key for data in chain for issuer in read_roster(data).issuers)


def parting(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int | None:
    """Where two chains part; ``None`` when one begins with the other."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)


def roster_hash(data: bytes) -> bytes:
    """By what a roster is named where another one revokes it: the SHA-256 of its signed bytes."""
    return hashlib.sha256(data).digest()
