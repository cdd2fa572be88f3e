"""The roster that holds now. A node keeps the newest it has seen, proven link by link from the first, and never an older one.

``roster`` is what everybody here asks: the signed one, and what operators have revoked since (``mesh.revocation``).
"""

import msgspec

from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.roster import Roster, check_chain, mesh_id_of, newer, read_roster
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.revocation import Revocations

MAX_CHAIN = 1000


class Trust:
    """The roster chain of one mesh, oldest first. The mesh id is the hash of the first roster."""

    def __init__(self, chain: tuple[bytes, ...]) -> None:
        self.mesh_id = mesh_id_of(chain[0])
        self.chain = chain
        self.signed: Roster = check_chain(chain, self.mesh_id)
        self.roster: Roster = self.signed
        self.revocations = Revocations()
        self._issuers = _issuers_of(chain)
        self.version = 0
        """Rises whenever ``roster`` changes."""

    def offer(self, chain: tuple[bytes, ...]) -> bool:
        """Take ``chain`` if it proves a newer roster; False when ours is as new. Raises ``RemoteProtocolError``.

        Two chains of different content and the same length are two successors signed by the root: that is an alarm, not a choice.
        """
        if len(chain) > MAX_CHAIN:
            raise RemoteProtocolError("roster chain too long")
        shared = min(len(chain), len(self.chain))
        if chain[:shared] != self.chain[:shared]:
            raise RemoteProtocolError("rival roster")
        if len(chain) <= len(self.chain):
            return False
        roster = self.signed
        for data in chain[len(self.chain) :]:  # what we have is proven: a bad link must not cost the whole chain again
            following = newer(roster, data, self.mesh_id)
            if isinstance(following, Refused):
                raise RemoteProtocolError("roster number does not rise")
            roster = following
        self.signed = roster
        self._issuers |= _issuers_of(chain[len(self.chain) :])
        self.chain = chain
        return True

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
