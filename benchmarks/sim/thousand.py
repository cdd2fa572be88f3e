"""What a large mesh does, measured in true time from outside, beside what the formulas say (SWIM; memberlist)."""

import math
import random
import statistics
from dataclasses import asdict, dataclass
from typing import Any

from cloudisense.mesh.events import EntryArrived, MemberChanged
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.limits import LAN
from cloudisense.sim.meshes import Host, Meshes

QUIET_S = 20.0
ENTRIES = 10


@dataclass(frozen=True, slots=True)
class Facts:
    """Times in seconds, rates in bytes a second and node (UDP payload and 28)."""

    nodes: int
    delivery_p50_s: float
    delivery_all_s: float
    undelivered: int
    first_suspicion_s: float
    formula_first_suspicion_s: float
    known_dead_p50_s: float
    known_dead_all_s: float
    formula_suspicion_s: float
    idle_bytes_s: float
    agreed: bool
    false_positives: int

    def row(self) -> dict[str, Any]:
        """Rounded."""
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in asdict(self).items()}


def facts(nodes: int, seed: int = 1) -> Facts:
    """Peace, then some entries, then one host that vanishes."""
    world = Meshes(nodes, seed, joined=True)
    rng = random.Random(seed)
    world.run(2)
    before = world.network.bytes
    world.run(QUIET_S)
    idle = (world.network.bytes - before) / QUIET_S / nodes
    waits, missing = _deliveries(world, rng)
    victim = rng.choice(world.hosts)
    first, known = _vanish(world, victim)
    others = [host for host in world.hosts if host is not victim]
    wrong = [item for host in others for _, item in host.news if isinstance(item, MemberChanged) and item.node != victim.id]
    return Facts(
        nodes,
        statistics.median(waits),
        max(waits),
        missing,
        first,
        # Who is probed by whom is a shuffled round: a member waits e/(e-1) periods for its first prober, who waits for an answer.
        math.e / (math.e - 1) * LAN.probe_interval_ms / 1000 + (LAN.probe_timeout_ms + LAN.indirect_timeout_ms) / 1000,
        statistics.median(known),
        max(known),
        LAN.suspicion_ms / 1000 * max(1.0, math.log10(nodes)),
        idle,
        all(world.all_see(victim, "dead", others) for _ in (1,)),
        sum(item.state not in ("alive", "suspect") for item in wrong),
    )


def _deliveries(world: Meshes, rng: random.Random) -> tuple[list[float], int]:
    waits: list[float] = []
    for _ in range(ENTRIES):
        author, begun = rng.choice(world.hosts), world.clock.now_ns
        for host in world.hosts:
            host.news.clear()
        world.append(author, "note", bytes(100))
        world.run(3)
        waits += [
            (at - begun) / NS_PER_S
            for host in world.hosts
            if host is not author
            for at, item in host.news
            if isinstance(item, EntryArrived) and item.entry.node == author.id
        ]
    return waits, ENTRIES * (len(world.hosts) - 1) - len(waits)


def _vanish(world: Meshes, victim: Host) -> tuple[float, list[float]]:
    begun = world.clock.now_ns
    for host in world.hosts:
        host.news.clear()
    victim.vanished = True
    world.run(20)
    told = {
        state: [
            (next((at for at, item in host.news if isinstance(item, MemberChanged) and item.node == victim.id and item.state == state), -1))
            for host in world.hosts
            if host is not victim
        ]
        for state in ("suspect", "dead")
    }
    seconds = {state: [(at - begun) / NS_PER_S for at in times if at >= 0] for state, times in told.items()}
    return min(seconds["suspect"], default=-1.0), seconds["dead"] or [-1.0]
