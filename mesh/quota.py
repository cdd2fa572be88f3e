"""Quotas: what one author may add to everybody's disk.

Judged by the author's own clock and the place in its feed, so that all holders judge alike.
"""

from cloudisense.mesh.limits import Limits

DAY_MS = 86_400_000
CLOSING = frozenset({"outcome", "failed", "closed", "escalation"})
"""What ends something that began within the quota may use a reserve: an action without outcome is worse than an entry."""


class Quota:
    """Entries per day and bytes in all, of one feed (one author, one generation)."""

    __slots__ = ("_day", "_in_day", "size")

    def __init__(self) -> None:
        self._day = 0
        self._in_day = 0
        self.size = 0

    def refuses(self, limits: Limits, kind: str, wall_ms: int, size: int) -> bool:
        """Would this be too much?"""
        allowed = limits.entries_per_day + (limits.closing_reserve if kind in CLOSING else 0)
        # A clock that is set back begins no new day: the count goes on under the latest day.
        in_day = self._in_day if wall_ms // DAY_MS <= self._day else 0
        return in_day >= allowed or self.size + size > limits.feed_bytes

    def add(self, wall_ms: int, size: int) -> None:
        """It was taken."""
        day = wall_ms // DAY_MS
        self._in_day = self._in_day + 1 if day <= self._day else 1
        self._day = max(day, self._day)
        self.size += size
