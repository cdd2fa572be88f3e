"""Small worlds with a plot. Each runs one seed to its end and reports what was wrong."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudisense.agent.catalogue import Action
from cloudisense.agent.incident import Incident
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.sim.checkers import violations
from cloudisense.sim.host import MB, File, Host
from cloudisense.sim.network import Weather
from cloudisense.sim.world import World

SETTLE_S = 10
DEADLINE_S = 120


@dataclass(frozen=True, slots=True)
class Result:
    """One seed's run. ``hash`` is the trace's; ``seconds`` is virtual time."""

    seed: int
    violations: list[str]
    seconds: float
    events: int
    hash: str
    world: World
    met: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(fault, state of the newest incident then) -> how often."""
    classes: tuple[str, ...] = ()
    """The faults that were switched on."""


def disk_full(seed: int, actions: tuple[Action, ...], nodes: int = 3) -> Result:
    """The flow of DESIGN section 1, twice: first a model ranks, then the fix history knows."""
    world = World(seed, actions, nodes)
    furnish(world)
    return _twice(world, lambda: None)


def lossy(seed: int, actions: tuple[Action, ...], nodes: int = 3) -> Result:
    """The same on a network that loses a tenth, doubles a tenth and reorders the rest."""
    world = World(seed, actions, nodes, Weather(loss=0.1, duplicate=0.1, delay_max_ns=30_000_000))
    furnish(world)
    return _twice(world, lambda: None)


def helper_dies(seed: int, actions: tuple[Action, ...], nodes: int = 3) -> Result:
    """The helper is killed as soon as it holds a capability, and comes back after the first healing."""
    world = World(seed, actions, nodes)
    furnish(world)
    subject = world.nodes[0]

    def strike() -> None:
        incidents = list(subject.node.agent.incidents.values()) if subject.node else []
        holders = {i.capability.holder for i in incidents if i.state == "granted" and i.capability is not None}
        for sim in world.nodes[1:]:
            if sim.node is not None and sim.member.identity.id in holders:
                world.crash(sim)
                world.clock.after(40 * NS_PER_S, lambda back=sim: world.start(back))

    return _twice(world, strike)


QUIET: dict[str, Callable[[int, tuple[Action, ...], int], Result]] = {
    "disk_full": disk_full,
    "lossy": lossy,
    "helper_dies": helper_dies,
}


def furnish(world: World) -> None:
    """Give every host with a file system its files; some are canaries."""
    for sim in world.nodes:
        if sim.host.paths:
            _files(sim.host)
    world.canaries = {sim.name: sim.host.canaries() for sim in world.nodes}


def _files(host: Host) -> None:
    host.files += [File("/vol/data", MB, 90 * 86_400, canary=True) for _ in range(8)]
    host.files += [File("/vol/cache", MB // 2, 3600) for _ in range(2)]
    host.files += [File("/vol/logs", MB, 86_400) for _ in range(3)]
    # A scratch file in use is new: a fix that takes everything would take it, too.
    host.files += [File("/vol/scratch", MB // 4, 60, canary=True) for _ in range(2)]


def _twice(world: World, meanwhile: Callable[[], None]) -> Result:
    subject = world.nodes[0]
    for sim in world.nodes:
        world.start(sim)
    problems: list[str] = []
    _wait(world, SETTLE_S, lambda: False, meanwhile)
    for run in (1, 2):
        subject.host.fill("/vol/scratch", 0.95, world.rng)
        _wait(world, DEADLINE_S, lambda run=run: _ended(world, run), meanwhile)
        if not _ended(world, run):
            problems.append(f"H5: incident {run} did not end everywhere in {DEADLINE_S} s")
        elif _incidents(world)[-1].state != "resolved":
            problems.append(f"H5: incident {run} ended {_incidents(world)[-1].state}: {_incidents(world)[-1].verdict}")
        _wait(world, SETTLE_S, lambda: False, meanwhile)
    _wait(world, 60, lambda: False, lambda: None)
    problems += violations(world)
    return Result(world.seed, problems, world.clock.now_ns / NS_PER_S, world.clock.events, world.trace.hash, world)


def _wait(world: World, seconds: int, until: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
    def stop() -> bool:
        meanwhile()
        return until()

    world.clock.run(world.clock.now_ns + seconds * NS_PER_S, stop)


def _incidents(world: World) -> list[Incident]:
    subject = world.nodes[0]
    incidents = subject.node.agent.incidents.values() if subject.node is not None else ()
    return sorted(incidents, key=lambda i: i.opened_ms)


def _ended(world: World, count: int) -> bool:
    return all(sum(i.ended for i in sim.node.agent.incidents.values()) >= count for sim in world.nodes if sim.node is not None)
