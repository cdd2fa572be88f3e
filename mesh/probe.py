"""SWIM's failure detector for one target at a time: probe, then ask relays, then give up (SWIM section 3.1)."""

from dataclasses import dataclass, field

from cloudisense.keys.given import Rng


@dataclass(slots=True)
class Probe:
    """A probe under way. ``relayed_for`` names who asked, when we are the relay."""

    target: bytes
    sequence: int
    incarnation: int
    relayed_for: tuple[bytes, int] | None = None
    asked: tuple[bytes, ...] | None = None
    """The relays that were asked; ``None`` while the probe is direct."""


@dataclass(slots=True)
class Prober:
    """Chooses targets in shuffled rounds, so that detection time is bounded (SWIM section 4.3), and matches answers to probes."""

    rng: Rng
    round: list[bytes] = field(default_factory=list[bytes])
    open: dict[int, Probe] = field(default_factory=dict[int, Probe])
    sequence: int = 0

    def next_target(self, members: list[bytes], urgent: list[bytes]) -> bytes | None:
        """The next member to probe: one under suspicion by others first, then the round."""
        for node in urgent:
            if not any(probe.target == node for probe in self.open.values()):
                return node
        present = set(members)
        for _ in range(2):
            while self.round:
                node = self.round.pop()
                if node in present:
                    return node
            self.round = sorted(members)
            for i in range(len(self.round) - 1, 0, -1):
                j = self.rng.randrange(i + 1)
                self.round[i], self.round[j] = self.round[j], self.round[i]
        return None

    def start(self, target: bytes, incarnation: int, relayed_for: tuple[bytes, int] | None = None) -> Probe:
        """A new probe with a sequence number of its own."""
        self.sequence += 1
        probe = Probe(target, self.sequence, incarnation, relayed_for)
        self.open[probe.sequence] = probe
        return probe

    def answered(self, sequence: int, peer: bytes) -> Probe | None:
        """The probe that this ack ends. Only the target, or a relay that was asked, may answer."""
        probe = self.open.get(sequence)
        if probe is None or (peer != probe.target and peer not in (probe.asked or ())):
            return None
        return self.open.pop(sequence)
