"""The member table, and the questions that are asked of it."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

from cloudisense.keys.encoding import pack
from cloudisense.mesh.effects import Address
from cloudisense.mesh.member import GONE, LOST, PROBED, Member

GONE_RANK = {"left": True, "forgotten": 2}


class MemberTable:
    """Every other node ever heard of, by id.

    What the questions need is sorted out once after each change of a state (``touched``), not with each datagram: the lists
    that they return are shared, and not to be changed.
    """

    def __init__(self) -> None:
        self.members: dict[bytes, Member] = {}
        self.known_sum = 0
        """Sum over members of a hash of what each claims; part of the digest."""
        self._summed: dict[bytes, int] = {}
        self._all: list[Member] | None = None
        self._present: list[bytes] | None = None
        self._lost: list[Member] | None = None
        self._states: Counter[str] | None = None
        self._addresses: set[Address] | None = None
        self._before: dict[bytes, int] = {}
        """Accused -> how many would confirm rather than we."""

    def touched(self) -> None:
        """A member is new, or its state is another one."""
        self._all = self._present = self._lost = self._states = self._addresses = None
        self._before.clear()

    def all(self) -> list[Member]:
        """Every other node ever heard of, sorted by id."""
        if self._all is None:
            self._all = [self.members[node] for node in sorted(self.members)]
        return self._all

    def present(self) -> list[bytes]:
        """Members that are counted on, sorted, without ourselves."""
        if self._present is None:
            self._present = [member.node for member in self.all() if member.present]
        return self._present

    def probed(self) -> "Probed":
        """Members that are worth a probe, sorted."""
        return Probed(self)

    def lost(self) -> list[Member]:
        """Members that are only greeted, sorted."""
        if self._lost is None:
            self._lost = [member for member in self.all() if member.state in LOST]
        return self._lost

    def addresses(self) -> set[Address]:
        """Where those are who have not gone."""
        if self._addresses is None:
            self._addresses = {m.address for m in self.members.values() if m.state not in GONE}
        return self._addresses

    def _count(self, *states: str) -> int:
        if self._states is None:
            self._states = Counter(member.state for member in self.members.values())
        return sum(self._states[state] for state in states)

    def unsuspected(self) -> int:
        """How many could accuse: ourselves and every member that nobody accuses."""
        return 1 + self._count("alive")

    def minority(self) -> bool:
        """Do we see fewer than half of all that have not left? Then it is we who are cut off."""
        total = 1 + len(self.members) - self._count(*GONE)
        return self.unsuspected() * 2 < total

    def is_confirmer(self, own: bytes, accused: bytes, confirmers: int) -> bool:
        """Is it on ``own`` to check this accusation? The same few nodes are chosen everywhere (rendezvous hashing)."""
        # In a cut about half of those chosen are beyond it, and not all of them suspected yet.
        suspects = self._count("suspect")
        if suspects > 1 or (suspects and not self._is(accused, "suspect")):
            confirmers *= 2
        before = self._before.get(accused)
        if before is None:
            # Who is suspected may be beyond the same cut; and one of those chosen may be the accuser.
            mine = _score(accused, own)
            before = sum(_score(accused, m.node) < mine for m in self.all() if m.state == "alive" and m.node != accused)
            self._before[accused] = before
        return before <= confirmers

    def _is(self, node: bytes, state: str) -> bool:
        member = self.members.get(node)
        return member is not None and member.state == state

    def namesakes(self, member: Member) -> list[bytes]:
        """Who else is here under this name; two issuers that did not know of each other can bring that about."""
        return [m.node for m in self.all() if m.present and m.alive.name == member.alive.name and m.node != member.node]

    def sum_up(self, member: Member) -> None:
        """Keep ``known_sum`` true after a change of ``member``."""
        value = head_hash(member.node, member.alive.incarnation, GONE_RANK.get(member.state, False))
        self.known_sum += value - self._summed.get(member.node, 0)
        self._summed[member.node] = value

    def sum_of(self, node: bytes) -> int:
        """What ``node`` adds to ``known_sum``."""
        return self._summed.get(node, 0)


class Probed:
    """Those of a table that are worth a probe, without a list of them all."""

    def __init__(self, table: MemberTable) -> None:
        self._table = table

    def __contains__(self, node: object) -> bool:
        member = self._table.members.get(node) if isinstance(node, bytes) else None
        return member is not None and member.state in PROBED

    def __iter__(self) -> Iterator[bytes]:
        return (member.node for member in self._table.all() if member.state in PROBED)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def item_hash(item: object) -> int:
    """Eight bytes for a digest that is a sum, so that it can be kept up instead of being computed anew."""
    return int.from_bytes(hashlib.sha256(pack(item)).digest()[:8], "big")


@lru_cache(maxsize=4096)
def head_hash(node: bytes, incarnation: int, gone: int) -> int:
    """``item_hash`` of what a node claims: asked with every digest."""
    return item_hash([node, incarnation, gone])


@lru_cache(maxsize=16)
def count_hash(count: int) -> int:
    """``item_hash`` of a number."""
    return item_hash(count)


@lru_cache(maxsize=8192)
def _score(accused: bytes, node: bytes) -> bytes:
    return hashlib.sha256(accused + node).digest()
