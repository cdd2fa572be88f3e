"""Small messages to one member, put together: the first leaves at once, what follows within ``gather_ms`` leaves as one.

Fifty entries at once to fifty members are 2,450 datagrams one by one, and as many answers; gathered, a tenth of it. A lone alert
never waits.
"""

from cloudisense.mesh.feed import Reference
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.outbound import Outbound
from cloudisense.mesh.wire import Got, Push, VectorItem

REFERENCES_PER_GOT = 20
HEADROOM = 64
PER_ENTRY = 5


class Gather:
    """Entries to push and to acknowledge, by member."""

    def __init__(self, membership: Membership, out: Outbound, limits: Limits) -> None:
        self._membership = membership
        self._out = out
        self._limits = limits
        self._entries: dict[bytes, dict[Reference, bytes]] = {}
        self._gots: dict[bytes, set[VectorItem]] = {}
        self._flushed_ns = -(1 << 62)

    def push(self, peer: bytes, reference: Reference, data: bytes) -> None:
        """``peer`` is to have this entry."""
        self._entries.setdefault(peer, {})[reference] = data

    def got(self, peer: bytes, item: VectorItem) -> None:
        """``peer`` is to know that we hold its entry."""
        self._gots.setdefault(peer, set()).add(item)

    def settle(self, now: Instant) -> None:
        """Send now, or together with what follows when we have sent just now."""
        next_ns = self._flushed_ns + self._limits.gather_ms * NS_PER_MS
        if now.boot_ns >= next_ns:
            self.flush(now)
        elif "gather" not in self._out.timers:
            self._out.timers.set("gather", next_ns)

    def flush(self, now: Instant) -> None:
        """Send what has gathered: entries before answers."""
        self._out.timers.cancel("gather")
        self._flushed_ns = now.boot_ns
        entries, self._entries = self._entries, {}
        gots, self._gots = self._gots, {}
        for peer in sorted(entries.keys() & self._membership.members.keys()):
            for batch in batches(list(entries[peer].values()), self._limits):
                self._membership.send(peer, Push(batch, answer=True))
        for peer in sorted(gots.keys() & self._membership.members.keys()):
            items = sorted(gots[peer])
            for start in range(0, len(items), REFERENCES_PER_GOT):
                self._membership.send(peer, Got(tuple(items[start : start + REFERENCES_PER_GOT])))


def batches(entries: list[bytes], limits: Limits) -> list[tuple[bytes, ...]]:
    """Entries in messages that fit datagrams; if one of them does not, all go by stream, so that they keep their order."""
    room = limits.datagram_bytes - HEADROOM
    if any(len(data) + PER_ENTRY > room for data in entries):
        room = limits.bulk_bytes // 2
    made: list[list[bytes]] = []
    left = 0
    for data in entries:
        size = len(data) + PER_ENTRY
        if not made or size > left:
            made.append([])
            left = room
        made[-1].append(data)
        left -= size
    return [tuple(batch) for batch in made]
