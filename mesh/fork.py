"""Forks: two entries that one node signed for one place in one generation. They prove by themselves that it forged its history."""

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.context import Context
from cloudisense.mesh.effects import Put
from cloudisense.mesh.events import Misbehaved
from cloudisense.mesh.feed import Entry, Feeds, Reference, parse_entry
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.table import item_hash
from cloudisense.mesh.wire import ForkProof, Forks


def check_fork(proof: ForkProof, mesh_id: bytes, limit: int) -> tuple[Entry, Entry]:
    """The two entries that ``proof`` is made of. Raises ``RemoteProtocolError`` when they prove nothing.

    Two for one place, or one that does not follow on the one before it: an honest node signs neither.
    """
    (first, _), (second, previous) = (parse_entry(data, mesh_id, limit) for data in proof)
    one_place = first.reference == second.reference and first.hash != second.hash
    after = Reference(first.node, first.reference.generation, first.reference.number + 1)
    if not one_place and not (second.reference == after and previous != first.hash):
        raise RemoteProtocolError("no fork")
    return first, second


class Forgers:
    """Who has forked, with the proof. Every node judges for itself; there is no way back but a new identity."""

    def __init__(self, context: Context, membership: Membership, feeds: Feeds) -> None:
        self.proofs: dict[bytes, ForkProof] = {}
        self.known_sum = 0
        self._context = context
        self._membership = membership
        self._feeds = feeds
        for proof in context.stored.forks:
            try:
                self._convict(check_fork(proof, context.mesh_id, context.limits.entry_bytes)[0].node, proof)
            except RemoteProtocolError as error:
                context.out.dropped[error.reason] += 1  # the disk did not keep it; peers have it

    def __contains__(self, node: object) -> bool:
        return node in self.proofs

    def take(self, message: Forks, now: Instant) -> None:
        """A peer has proofs."""
        for proof in message.proofs:
            self.caught(proof, now)

    def caught(self, proof: ForkProof, now: Instant) -> None:
        """Keep a proof, tell everyone, and believe nothing more of who is proven. Raises ``RemoteProtocolError``."""
        limits = self._context.limits
        first, _ = check_fork(proof, self._context.mesh_id, limits.entry_bytes)
        node = first.node
        if node in self.proofs or (node not in self._membership.members and node != self._context.id):
            return
        self._convict(node, proof)
        row = {"node": node, "first": proof[0], "second": proof[1], "at_ms": now.wall_ms}
        self._context.out.persist((Put("forks", row),), lambda later: self._spread(proof))
        self._context.out.tell(Misbehaved(node, "forked"))

    def sum_of(self, node: bytes) -> int:
        """What the proof against ``node`` adds to ``known_sum``."""
        return item_hash(["fork", node]) if node in self.proofs else 0

    def _convict(self, node: bytes, proof: ForkProof) -> None:
        self.proofs[node] = proof
        self.known_sum += self.sum_of(node)
        self._feeds.shut(node)

    def _spread(self, proof: ForkProof) -> None:
        for peer in self._membership.present():
            self._membership.send(peer, Forks((proof,)))
