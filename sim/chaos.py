"""Chaos: first anything may break and nothing may go wrong, then all is healed and everything has to end well (DESIGN section 3.5)."""

import contextlib
import random
import traceback
from dataclasses import dataclass

from cloudisense.agent.catalogue import Action
from cloudisense.keys.encoding import pack
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.feed import OverQuota
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S
from cloudisense.mesh.limits import LAN
from cloudisense.sim.checkers import violations
from cloudisense.sim.faults import CLASSES, Faults
from cloudisense.sim.scenarios import Result, furnish
from cloudisense.sim.watch import Watch
from cloudisense.sim.world import World

MEET_S = 4
SAFETY_S = 30
PERIOD_NS = LAN.probe_interval_ms * NS_PER_MS
ENDS_WITHIN_S = 15 * 60
"""H5."""


def chaos(seed: int, actions: tuple[Action, ...], nodes: int = 5) -> Result:
    """One seed: its own subset of the faults, two hosts whose disks fill, perhaps one member that lies."""
    world = World(seed, actions, nodes, subjects=2)
    rng = random.Random(f"chaos {seed}")
    classes = tuple(name for name in CLASSES if rng.random() < rng.choice((0.2, 0.5)))
    furnish(world)
    if "byzantine" in classes:
        world.nodes[-1].byzantine = True
    watch = Watch(world)
    faults = Faults(world, rng, classes, (MEET_S + SAFETY_S) * NS_PER_S)
    try:
        problems = _play(world, rng, faults, watch)
    except Exception as error:  # whatever a node raises is found here, with its seed
        at = traceback.extract_tb(error.__traceback__)[-1]
        problems = [*watch.problems, f"raised: {error!r} at {at.filename.rsplit('/', 2)[-2]}/{at.name}:{at.lineno}"]
    seconds = world.clock.now_ns / NS_PER_S
    return Result(seed, problems, seconds, world.clock.events, world.trace.hash, world, faults.met, classes)


def _play(world: World, rng: random.Random, faults: Faults, watch: Watch) -> list[str]:
    for sim in world.nodes:
        world.start(sim)
    run = _Run(world, watch)
    run.for_s(MEET_S)
    _listen(world, faults)
    faults.begin()
    _plan_incidents(world, rng)
    run.for_s(SAFETY_S)
    faults.heal()
    return watch.problems + _liveness(run, len(world.nodes))


@dataclass(slots=True)
class _Run:
    world: World
    watch: Watch

    def for_s(self, seconds: float) -> None:
        """Let time pass, and look at what was run meanwhile."""
        world, seen = self.world, 0

        def stop() -> bool:
            nonlocal seen
            if len(world.runs) != seen:
                seen = len(world.runs)
                self.watch.runs()
            return False

        world.clock.run(world.clock.now_ns + round(seconds * NS_PER_S), stop)

    def until_over(self, seconds: float) -> None:
        """Let time pass until every incident has ended everywhere."""
        for _ in range(int(seconds)):
            if _over(self.world):
                return
            self.for_s(1)


def _listen(world: World, faults: Faults) -> None:
    if "flood" in faults.classes:
        carry = world._deliver

        def deliver(source: tuple[str, int], target: tuple[str, int], data: bytes) -> None:
            faults.listen(source, target, data)
            carry(source, target, data)

        world._deliver = deliver


def _plan_incidents(world: World, rng: random.Random) -> None:
    """Disks fill at some moment; sometimes what should help does not, or nothing can be read for a while."""
    for sim in world.nodes[:2]:
        if rng.random() < 0.9:
            at = world.clock.now_ns + rng.randrange(0, 12_000) * NS_PER_MS
            world.clock.at(at, lambda sim=sim: sim.host.fill("/vol/scratch", 0.95, world.rng))
        if rng.random() < 0.3:
            sim.host.useless.add("purge_old_files")
        if rng.random() < 0.2:
            at = world.clock.now_ns + rng.randrange(2_000, 15_000) * NS_PER_MS
            world.clock.at(at, lambda sim=sim: setattr(sim.host, "unreadable", "Input/output error"))
            world.clock.at(at + 4 * NS_PER_S, lambda sim=sim: setattr(sim.host, "unreadable", ""))


def _liveness(run: _Run, nodes: int) -> list[str]:
    world, watch = run.world, run.watch
    problems: list[str] = []
    run.for_s(2 * (nodes - 1) * PERIOD_NS / NS_PER_S)
    problems += watch.lost()
    run.until_over(ENDS_WITHIN_S)
    run.for_s(10 * PERIOD_NS / NS_PER_S)
    since_ns = world.clock.now_ns
    for sim in world.nodes:
        if not sim.byzantine:
            world.command(sim, lambda node: _note(node.mesh, world))
    run.for_s(3 * PERIOD_NS / NS_PER_S + 0.1)
    return problems + watch.undelivered(since_ns) + violations(world)


def _note(mesh: Mesh, world: World) -> None:
    with contextlib.suppress(OverQuota):
        mesh.append("note", pack(["all is well"]), world.clock.instant())


def _over(world: World) -> bool:
    return all(i.ended for sim in world.nodes if sim.node is not None and not sim.byzantine for i in sim.node.agent.incidents.values())
