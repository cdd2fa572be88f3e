"""Member rows on their way to disk: at once when something changed that a restart needs, what follows soon after it together, and late
when only an incarnation changed.

A restless mesh refutes all the time; each refutation would be a row at every member, and flash wears out. Fifty that join at once
are one sync, not fifty. What a crash loses in between, peers tell again.
"""

from cloudisense.mesh.effects import Put
from cloudisense.mesh.instant import NS_PER_MS
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Member
from cloudisense.mesh.outbound import Outbound


class MemberRows:
    """What the ``members`` table holds, and what it is still to be told."""

    def __init__(self, out: Outbound, limits: Limits) -> None:
        self._out = out
        self._limits = limits
        self._kept: dict[bytes, tuple[object, ...]] = {}
        """What the row of each member says, but for its incarnation."""
        self._waiting: dict[bytes, Put] = {}
        self._soon = False
        self._flushed_ns = -(1 << 62)

    def put(self, member: Member) -> None:
        """``member`` has changed."""
        row = {
            "node": member.node,
            "claim": member.claim,
            "certificate": member.certificate_data,
            "state": member.state,
            "since_ms": member.since_ms,
        }
        alive = member.alive
        kept = (member.state, member.certificate_data, member.address, alive.boot, alive.session_public)
        self._waiting[member.node] = Put("members", row)
        changed = self._kept.get(member.node) != kept
        self._kept[member.node] = kept
        if changed and self._out.seen_ns - self._flushed_ns >= self._limits.soon_rows_ms * NS_PER_MS:
            self.flush()
        elif changed and not self._soon:
            self._soon = True
            self._out.wake_soon("rows", self._limits.soon_rows_ms)
        elif "rows" not in self._out.timers:
            self._out.wake_soon("rows", self._limits.late_rows_ms)

    def flush(self) -> None:
        """Write what waits, in one go."""
        rows, self._waiting, self._soon = self._waiting, {}, False
        self._flushed_ns = self._out.seen_ns
        if rows:
            self._out.persist(tuple(rows[node] for node in sorted(rows)))
