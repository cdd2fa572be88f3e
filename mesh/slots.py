"""Change slots: at most ``count`` hosts under disruptive change at a time (L8), as that many leases.

A node takes one of ``slot/0`` to ``slot/count-1``. It tries another one when the one it tried is taken, a random one first,
so that a herd does not ask for the same.
"""

from cloudisense.keys.errors import Refused
from cloudisense.keys.given import Rng
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.lease import Leases
from cloudisense.mesh.lease_messages import HELD
from cloudisense.mesh.lease_port import Lease, LeaseHeld, LeaseWaits, News

PREFIX = "slot/"


def slots_of(nodes: int) -> int:
    """How many a mesh of ``nodes`` nodes has: a fifth of them, at least one."""
    return max(1, nodes // 5)


class Slots:
    """One node's wish for a slot, over its leases."""

    def __init__(self, leases: Leases, rng: Rng, count: int) -> None:
        self._leases = leases
        self._rng = rng
        self._count = count
        self._key: str | None = None
        self._moves = 0
        """Slots given up since we last waited: once round, it is time to wait, or a full house would be asked without a pause."""
        self._full = 0
        """How often we went round in vain: each time we stay with one slot, and its back-off, for twice as many tries."""
        self._stay = 0

    def want(self, now: Instant) -> Refused | None:
        """Get and keep any one slot."""
        if self._key is not None:
            return None
        return self._take(self._rng.randrange(self._count), now)

    def _take(self, i: int, now: Instant) -> Refused | None:
        refused = self._leases.want(f"{PREFIX}{i}", now)
        self._key = None if refused is not None else f"{PREFIX}{i}"
        return refused

    def drop(self, now: Instant) -> None:
        """Give it back."""
        if self._key is not None:
            self._leases.drop(self._key, now)
            self._key = None

    def held(self, now: Instant) -> Lease | None:
        """The slot that is ours at this very moment: ask before every step. One beyond the count, which may have fallen, is none."""
        if self._key is None or int(self._key.removeprefix(PREFIX)) >= self._count:
            return None
        return self._leases.held(self._key, now)

    def resize(self, count: int, now: Instant) -> None:
        """There are this many slots now. Who has one that is none any more takes another."""
        self._count = count
        if self._key is not None and int(self._key.removeprefix(PREFIX)) >= count:
            self.drop(now)
            self.want(now)

    def heard(self, news: News, now: Instant) -> None:
        """Look at what the leases report: a slot that is taken is not waited for while there are others."""
        if isinstance(news, LeaseHeld) and news.lease.key == self._key:
            self._full = self._stay = self._moves = 0
        if not isinstance(news, LeaseWaits) or news.key != self._key:
            return
        if self._stay > 0:
            self._stay -= 1
        elif self._moves >= self._count - 1:
            self._moves, self._stay = 0, min(1 << self._full, 16)
            self._full += 1
        elif HELD in news.reason:
            taken, moves = int(news.key.removeprefix(PREFIX)), self._moves + 1
            self.drop(now)
            self._take((taken + 1) % self._count, now)
            self._moves = moves
