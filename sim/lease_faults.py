"""What goes wrong in one history: drawn from the seed, each fault on or off by itself (swarm testing, Groce et al., ISSTA 2012)."""

import random
from dataclasses import dataclass, fields

from cloudisense.mesh.instant import NS_PER_MS

D_MS = 1000
D_NS = D_MS * NS_PER_MS
NEAR_NS = (200_000, 8_000_000)
FAR_NS = (D_NS // 100, D_NS // 10)
RHOS = (10_000, 50_000, 200_000)


@dataclass(slots=True)
class Faults:
    """Switches; the plot (``sim.leases``) says what each does."""

    loss: bool
    slow: bool
    """Some messages take long, up to more than D."""
    far: bool
    """Every message takes up to a tenth of D."""
    duplicate: bool
    cuts: bool
    """One-way partitions, and hosts that are cut off whole."""
    crash: bool
    strike: bool
    """Crashes just before and just after a sync or a send."""
    torn: bool
    """Of unsynced writes, a crash may keep the first few."""
    rates: bool
    """Clocks run at rates within rho of true time."""
    drift: bool
    """And change their rate."""
    freeze: bool
    """A process stops for a while, or its host is suspended: the boot clock runs on."""
    stand: bool
    """A host stops, its clock too."""
    stale: bool
    """A restart may find an older copy of the roster chain."""
    slow_disk: bool
    """Some hosts sync slowly, up to a third of D."""
    hush: bool
    """Rosters spread badly."""
    zombies: bool
    """A holder may look whether it holds, stop for a while, and act then."""
    epochs: bool
    forced: bool
    drops: bool
    """Holders release and want again."""
    slots: bool
    byzantine: bool
    """One voter grants everything to everybody. Such a history is looked at for L7 only."""


RARE = {
    "far": 0.3,
    "hush": 0.3,
    "stand": 0.25,
    "forced": 0.2,
    "slots": 0.25,
    "byzantine": 0.08,
    "stale": 0.5,
    "epochs": 0.6,
    "slow_disk": 0.3,
}


def draw(rng: random.Random) -> Faults:
    """One subset of the faults."""
    return Faults(**{field.name: rng.random() < RARE.get(field.name, 0.5) for field in fields(Faults)})


@dataclass(slots=True)
class Air:
    """The network: how likely a message is lost or doubled, and how long it takes."""

    rng: random.Random
    loss: float
    double: float
    late: float
    usual_ns: tuple[int, int]

    def copies(self) -> list[int]:
        """The delays in nanoseconds of the copies of one message that arrive."""
        if self.rng.random() < self.loss:
            return []
        return [self._delay() for _ in range(1 + (self.rng.random() < self.double))]

    def _delay(self) -> int:
        if self.rng.random() < self.late:  # half of them in time to count, and late enough to matter
            return self.rng.randrange(D_NS // 100, D_NS // 7 if self.rng.random() < 0.5 else D_NS * 6 // 5)
        return self.rng.randrange(*self.usual_ns)

    def clear(self) -> None:
        """Healed."""
        self.loss = self.double = self.late = 0.0
        self.usual_ns = NEAR_NS


def air(rng: random.Random, faults: Faults) -> Air:
    """The network of one history."""
    return Air(
        rng,
        rng.choice((0.02, 0.1, 0.3)) if faults.loss else 0.0,
        rng.choice((0.05, 0.3)) if faults.duplicate else 0.0,
        rng.choice((0.05, 0.3)) if faults.slow else 0.0,
        FAR_NS if faults.far else NEAR_NS,
    )
