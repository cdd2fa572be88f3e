"""What the simulator is timed with: meshes in peace with a little trouble, and whole agents in chaos."""

import gc
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

from cloudisense.host.catalogue import builtin_actions
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.sim.chaos import chaos
from cloudisense.sim.meshes import Meshes

EVENT_EVERY_S = 5.0
VANISH_EVERY_S = 60.0
WARM_S = 2.0


@dataclass(frozen=True, slots=True)
class Timing:
    """``times_real``: virtual seconds in a second of one core."""

    what: str
    nodes: int
    virtual_s: float
    core_s: float
    wall_s: float
    events: int
    datagrams: int

    @property
    def times_real(self) -> float:
        return self.virtual_s / self.core_s

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"times_real": round(self.times_real, 2), "events_s": round(self.events / self.core_s)}


def mesh(nodes: int, virtual_s: float, seed: int = 1) -> Timing:
    """Membership and feeds: all know each other; an entry every 5 s, and every minute a host vanishes for good (a return is a join)."""
    world = Meshes(nodes, seed, joined=True)
    rng = random.Random(seed)
    world.run(WARM_S)
    trouble(world, rng, virtual_s)
    events, datagrams = world.clock.events, world.network.datagrams
    gc.collect()
    gc.freeze()  # a thousand nodes that know each other are millions of objects, and none of them is garbage
    core, wall = time.process_time(), time.perf_counter()
    world.run(virtual_s)
    core, wall = time.process_time() - core, time.perf_counter() - wall
    gc.unfreeze()
    return Timing("membership and feeds", nodes, virtual_s, core, wall, world.clock.events - events, world.network.datagrams - datagrams)


def trouble(world: Meshes, rng: random.Random, virtual_s: float) -> None:
    """Plan what happens."""

    def at(second: float, do: Any) -> None:
        world.clock.after(round(second * NS_PER_S), do)

    for i in range(int(virtual_s / EVENT_EVERY_S)):
        author = rng.choice(world.hosts)
        at((i + rng.random()) * EVENT_EVERY_S, lambda author=author: None if author.vanished else world.append(author, "note", bytes(100)))
    for i in range(max(1, int(virtual_s / VANISH_EVERY_S))):
        host = rng.choice(world.hosts)
        begin = i * VANISH_EVERY_S + 1 + rng.random()
        at(begin, lambda host=host: setattr(host, "vanished", True))


def agents(nodes: int, seeds: range) -> Timing:
    """Whole agents in chaos, from the first meeting to the last word."""
    actions = builtin_actions()
    chaos(seeds[0], actions, nodes)  # keys, and all that a process does once
    core, wall = time.process_time(), time.perf_counter()
    results = [chaos(seed, actions, nodes) for seed in seeds]
    core, wall = time.process_time() - core, time.perf_counter() - wall
    datagrams = sum(result.world.network.datagrams for result in results)
    return Timing("whole agent, chaos", nodes, sum(r.seconds for r in results), core, wall, sum(r.events for r in results), datagrams)
