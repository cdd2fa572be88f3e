"""From readings to findings: two thresholds and a duration, re-armed for every incident."""

from dataclasses import dataclass
from typing import Literal

from cloudisense.agent.events import FileSystem
from cloudisense.mesh.instant import NS_PER_MS, Instant

Change = Literal["raised", "cleared"]


@dataclass(frozen=True, slots=True)
class Rule:
    """``kind`` is raised at ``raise_at`` held for ``hold_ms``, cleared below ``clear_at``; shares between 0 and 1."""

    kind: str
    metric: Literal["bytes", "inodes"]
    raise_at: float
    clear_at: float
    hold_ms: int

    def share(self, reading: FileSystem) -> float:
        """How full; 0 where the file system does not count this."""
        used, size = (reading.used, reading.size) if self.metric == "bytes" else (reading.inodes_used, reading.inodes)
        return used / size if size else 0.0

    def goal(self, reading: FileSystem) -> int:
        """How many bytes (or inodes) have to go until the rule is clear."""
        used, size = (reading.used, reading.size) if self.metric == "bytes" else (reading.inodes_used, reading.inodes)
        return max(0, used - int(size * self.clear_at) + 1)


RULES = (
    Rule("disk_full", "bytes", raise_at=0.90, clear_at=0.80, hold_ms=200),
    Rule("inodes_full", "inodes", raise_at=0.95, clear_at=0.50, hold_ms=200),
)
"""What ships. FAULTS.md A1 and A2 give the levels that a user calls healed."""

NEAR = 0.10
"""This close below a threshold, a file system is read more often."""


@dataclass(slots=True)
class Detector:
    """One rule on one target."""

    rule: Rule
    target: str
    raised: bool = False
    above_ns: int | None = None

    def update(self, reading: FileSystem, now: Instant) -> Change | None:
        """Take one reading; says when the state changes."""
        share = self.rule.share(reading)
        if share < self.rule.raise_at:
            self.above_ns = None
        if self.raised:
            if share < self.rule.clear_at:
                self.raised = False
                return "cleared"
            return None
        if share < self.rule.raise_at:
            return None
        if self.above_ns is None:
            self.above_ns = now.boot_ns
        if now.boot_ns - self.above_ns < self.rule.hold_ms * NS_PER_MS:
            return None
        self.raised = True
        return "raised"

    def near(self, reading: FileSystem) -> bool:
        """Is it worth reading this more often?"""
        return self.raised or self.rule.share(reading) >= self.rule.raise_at - NEAR
