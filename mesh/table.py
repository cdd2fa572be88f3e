"""The member table, and the questions that are asked of it."""

import hashlib

from cloudisense.keys.encoding import pack
from cloudisense.mesh.member import GONE, LOST, PROBED, Member

GONE_RANK = {"left": True, "forgotten": 2}


class MemberTable:
    """Every other node ever heard of, by id."""

    def __init__(self) -> None:
        self.members: dict[bytes, Member] = {}
        self.known_sum = 0
        """Sum over members of a hash of what each claims; part of the digest."""
        self._summed: dict[bytes, int] = {}

    def all(self) -> list[Member]:
        """Every other node ever heard of, sorted by id."""
        return [self.members[node] for node in sorted(self.members)]

    def present(self) -> list[bytes]:
        """Members that are counted on, sorted, without ourselves."""
        return [member.node for member in self.all() if member.present]

    def probed(self) -> list[bytes]:
        """Members that are worth a probe, sorted."""
        return [member.node for member in self.all() if member.state in PROBED]

    def lost(self) -> list[Member]:
        """Members that are only greeted, sorted."""
        return [member for member in self.all() if member.state in LOST]

    def unsuspected(self) -> int:
        """How many could accuse: ourselves and every member that nobody accuses."""
        return 1 + sum(m.state == "alive" for m in self.members.values())

    def minority(self) -> bool:
        """Do we see fewer than half of all that have not left? Then it is we who are cut off."""
        total = 1 + sum(m.state not in GONE for m in self.members.values())
        return self.unsuspected() * 2 < total

    def is_confirmer(self, own: bytes, accused: bytes, confirmers: int) -> bool:
        """Is it on ``own`` to check this accusation? The same few nodes are chosen everywhere (rendezvous hashing)."""
        # Who is suspected may be beyond the same cut; and one of those chosen may be the accuser.
        nodes = [own, *(m.node for m in self.all() if m.state == "alive" and m.node != accused)]
        # In a cut about half of those chosen are beyond it, and not all of them suspected yet.
        if any(m.state == "suspect" and m.node != accused for m in self.members.values()):
            confirmers *= 2
        chosen = sorted(nodes, key=lambda node: hashlib.sha256(accused + node).digest())[: confirmers + 1]
        return own in chosen

    def namesakes(self, member: Member) -> list[bytes]:
        """Who else is here under this name; two issuers that did not know of each other can bring that about."""
        return [m.node for m in self.all() if m.present and m.alive.name == member.alive.name and m.node != member.node]

    def sum_up(self, member: Member) -> None:
        """Keep ``known_sum`` true after a change of ``member``."""
        value = item_hash([member.node, member.alive.incarnation, GONE_RANK.get(member.state, False)])
        self.known_sum += value - self._summed.get(member.node, 0)
        self._summed[member.node] = value

    def sum_of(self, node: bytes) -> int:
        """What ``node`` adds to ``known_sum``."""
        return self._summed.get(node, 0)


def item_hash(item: object) -> int:
    """Eight bytes for a digest that is a sum, so that it can be kept up instead of being computed anew."""
    return int.from_bytes(hashlib.sha256(pack(item)).digest()[:8], "big")
