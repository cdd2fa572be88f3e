"""The only clock that the cores ever see: an argument."""

from dataclasses import dataclass

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Instant:
    """One reading of a host's clocks, taken by the shell and passed in as ``now``.

    ``boot_ns`` is CLOCK_BOOTTIME in nanoseconds: it runs through suspend, never steps, and means
    something only within one boot. Durations, deadlines and capabilities use it.
    ``wall_ns`` is Unix time in nanoseconds: certificates and invites use it, and so do the
    times that people read. ``wall_trusted`` is false where the host cannot vouch for it
    (no RTC, far from its peers); such a node gossips but issues nothing.
    """

    boot_ns: int
    wall_ns: int
    wall_trusted: bool = True

    @property
    def wall_ms(self) -> int:
        """Unix time in milliseconds, as entries and JSON carry it."""
        return self.wall_ns // NS_PER_MS
