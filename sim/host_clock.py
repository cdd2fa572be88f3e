"""One host's clocks: a boot clock that runs at a rate of its own, and a wall clock that somebody may set."""

from cloudisense.mesh.instant import Instant
from cloudisense.sim.clock import EPOCH_WALL_NS, Clock


class HostClock:
    """Perfect at first. ``rate_ppm`` is how much faster than true time the boot clock runs."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._true_ns = 0
        self._boot_ns = 0
        self._rate_ppm = 0
        self.wall_offset_ns = 0

    def instant(self) -> Instant:
        """What this host reads now."""
        boot_ns = self._read_ns()
        return Instant(boot_ns, EPOCH_WALL_NS + boot_ns + self.wall_offset_ns)

    def run_at(self, rate_ppm: int) -> None:
        """From now on at this rate; nothing jumps."""
        self._boot_ns, self._true_ns = self._read_ns(), self._clock.now_ns
        self._rate_ppm = rate_ppm

    def true_ns(self, boot_ns: int) -> int:
        """When this boot clock will show ``boot_ns``, in true time, rounded up."""
        ahead = (boot_ns - self._boot_ns) * 1_000_000
        return self._true_ns + -(-ahead // (1_000_000 + self._rate_ppm))

    def _read_ns(self) -> int:
        return self._boot_ns + (self._clock.now_ns - self._true_ns) * (1_000_000 + self._rate_ppm) // 1_000_000
