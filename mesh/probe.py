"""SWIM's probes: whom to ask next, and which answer belongs to which question (SWIM sections 3.1 and 4.3)."""

from collections.abc import Collection
from dataclasses import dataclass, field

from cloudisense.keys.given import Rng


@dataclass(slots=True)
class Probe:
    """A probe under way. ``relayed_for`` names who asked, when we are the relay; ``knock`` is what TCP met, once it is known."""

    target: bytes
    sequence: int
    incarnation: int
    relayed_for: tuple[bytes, int] | None = None
    asked: tuple[bytes, ...] | None = None
    """The relays that were asked; ``None`` while the probe is direct."""
    nacks: set[bytes] = field(default_factory=set[bytes])
    """Those of them that say that they are well, but met silence, too."""
    knock: str = ""


@dataclass(slots=True)
class Prober:
    """Chooses targets in shuffled rounds, so that detection time is bounded, and matches answers to probes."""

    rng: Rng
    round: list[bytes] = field(default_factory=list[bytes])
    open: dict[int, Probe] = field(default_factory=dict[int, Probe])
    sequence: int = 0

    def next_target(self, members: Collection[bytes]) -> bytes | None:
        """The next member of the round that is not being probed; a new round when this one is over."""
        busy = {probe.target for probe in self.open.values() if probe.relayed_for is None}
        for _ in range(2):
            while self.round:
                node = self.round.pop()
                if node in members and node not in busy:
                    return node
            self.round = sorted(members)
            for i in range(len(self.round) - 1, 0, -1):
                j = self.rng.randrange(i + 1)
                self.round[i], self.round[j] = self.round[j], self.round[i]
        return None

    def probing(self, node: bytes) -> bool:
        """Is a probe of our own on its way to ``node``?"""
        return any(probe.target == node and probe.relayed_for is None for probe in self.open.values())

    def start(self, target: bytes, incarnation: int, relayed_for: tuple[bytes, int] | None = None) -> Probe:
        """A new probe with a sequence number of its own."""
        self.sequence += 1
        probe = Probe(target, self.sequence, incarnation, relayed_for=relayed_for)
        self.open[probe.sequence] = probe
        return probe

    def answered(self, sequence: int, peer: bytes) -> Probe | None:
        """The probe that this ack ends. Only the target, or a relay that was asked, may answer."""
        probe = self.open.get(sequence)
        if probe is None or (peer != probe.target and peer not in (probe.asked or ())):
            return None
        return self.open.pop(sequence)
