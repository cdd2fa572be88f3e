"""Members that come and go: from the third change of mind on, a death is held down, longer each time.

Failing once and coming back is told at once. Failing again within the window is not told until it has lasted for the hold-down:
a flapping link then costs one failure and one return, not one of each per flap (asked for in serf#185, alertmanager#1909).
Who comes back from a new boot did not flap: it was really down, and if it goes down again that is news at once.
"""

from dataclasses import dataclass, field

from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits


@dataclass(slots=True)
class Flaps:
    """When each member was last declared failed, and how often in a row."""

    limits: Limits
    _failures: dict[bytes, tuple[int, int]] = field(default_factory=dict[bytes, tuple[int, int]])

    def failed(self, node: bytes, now: Instant) -> None:
        """``node`` was declared failed."""
        if node not in self._failures and len(self._failures) >= self.limits.members:
            del self._failures[min(self._failures, key=lambda n: (self._failures[n][0], n))]
        self._failures[node] = (now.boot_ns, self._row(node, now) + 1)

    def held(self, node: bytes, now: Instant) -> None:
        """``node`` came back while a failure was held down: that was a flap as well."""
        if self._row(node, now):
            self.failed(node, now)

    def rebooted(self, node: bytes) -> None:
        """``node`` is back from a new boot: what failed before was no link."""
        self._failures.pop(node, None)

    def hold_ms(self, node: bytes, now: Instant) -> int:
        """How much longer than usual ``node`` has to stay silent before it is declared failed again."""
        row = self._row(node, now)
        return min(self.limits.flap_hold_max_ms, self.limits.flap_hold_ms << (row - 1)) if row else 0

    def _row(self, node: bytes, now: Instant) -> int:
        """Failures in a row, each within the window after the one before it."""
        last_ns, row = self._failures.get(node, (0, 0))
        window_ms = self.limits.flap_window_ms << max(0, row - 1)
        return row if row and now.boot_ns - last_ns < window_ms * NS_PER_MS else 0
