"""What a seed may break. Each class begins and ends by itself during the safety phase; ``heal`` ends them all."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudisense.mesh.effects import Address
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S
from cloudisense.sim.adversary import Byzantine, replay_steps, shout
from cloudisense.sim.network import Weather
from cloudisense.sim.world import SimNode, World

CLASSES = (
    "loss", "duplication", "delay", "corrupt wire", "one-way cut", "dead link", "cut", "flapping link", "clock rate", "wall jump", "freeze",
    "suspend", "crash", "crash at a point", "slow disk", "full disk", "rotten disk", "flood", "thief", "byzantine",
)  # fmt: skip
POINTS = ("before send", "after send", "before sync", "after sync", "before action", "after action")
KEPT_HEARD = 64
Struck = tuple[str, str] | None
"""Which fault came, and whom it met; ``None`` when there was nobody."""
ROTS = (("entries", "data"), ("members", "claim"), ("members", "certificate"), ("checkpoints", "bundle"), ("forks", "first"))
ROT_OWN_ENTRIES = False
"""A node that finds its own words rotten gets them back from its peers, and does not act on them: an incident may stay open for ever
(tests/simulation/test_chaos.py keeps the story)."""


@dataclass(slots=True)
class Faults:
    """The classes that this seed has switched on, and what they have done so far."""

    world: World
    rng: random.Random
    classes: tuple[str, ...]
    until_ns: int
    met: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    """(fault, state of the newest incident at its subject) -> how often."""
    byzantine: Byzantine | None = None
    _heard: list[tuple[Address, Address, bytes]] = field(default_factory=list[tuple[Address, Address, bytes]])

    @property
    def over(self) -> bool:
        return self.world.clock.now_ns >= self.until_ns

    # -- the beginning and the end -------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Set the weather and the first of each kind of trouble."""
        rng, world = self.rng, self.world
        has = self.classes.__contains__
        world.network.weather = Weather(
            loss=rng.choice((0.02, 0.1, 0.3)) if has("loss") else 0.0,
            duplicate=rng.choice((0.05, 0.3)) if has("duplication") else 0.0,
            corrupt=rng.choice((0.01, 0.1)) if has("corrupt wire") else 0.0,
            delay_max_ns=rng.choice((20, 100, 400)) * NS_PER_MS if has("delay") else 2 * NS_PER_MS,
        )
        if has("crash at a point"):
            chances = dict.fromkeys(rng.sample(POINTS, 2), 1)
            chances = {what: 0.3 if "action" in what else 0.004 for what in chances}
            world.point = lambda sim, what: self._strike(sim, what, chances.get(what, 0))
        if has("byzantine"):
            self.byzantine = Byzantine(world, next(sim for sim in world.nodes if sim.byzantine), random.Random(rng.random()))
        for name, (do, mean_s) in _RECURRING.items():
            if has(name):
                self._again(do, mean_s)
        if has("slow disk"):
            for sim in world.nodes:
                sim.disk.slower = rng.choice((1, 5, 30))

    def heal(self) -> None:
        """Everything works again, and everybody is back."""
        world = self.world
        world.point = lambda sim, what: None
        world.network.weather = Weather()
        world.network.heal()
        for sim in world.nodes:
            sim.disk.slower, sim.disk.full = 1, False
            sim.clock.run_at(0)
            sim.clock.wall_offset_ns = 0
            if sim.node is None:
                world.start(sim)
            elif sim.frozen:
                world.thaw(sim)

    def _again(self, do: "Callable[[Faults], Struck]", mean_s: float) -> None:
        def strike() -> None:
            if not self.over:
                if (struck := do(self)) is not None:
                    self.meet(*struck)
                self._again(do, mean_s)

        self.world.clock.after(round(self.rng.expovariate(1 / mean_s) * NS_PER_S), strike)

    def later(self, low_s: float, high_s: float, do: Callable[[], object]) -> None:
        """Undo something after a while, unless all is healed by then."""

        def undo() -> None:
            if not self.over:
                do()

        self.world.clock.after(round(self.rng.uniform(low_s, high_s) * NS_PER_S), undo)

    def meet(self, name: str, who: str = "") -> None:
        """Note what the protocol was doing when this fault came."""
        node = self.world.nodes[0].node
        states = [i.state for i in node.agent.incidents.values()] if node is not None else ["subject down"]
        self.met[name, states[-1] if states else "quiet"] += 1
        self.world.trace.tell(self.world.clock.now_ns, who or "world", "fault", "", name)

    # -- what happens --------------------------------------------------------------------------------------------------

    def _strike(self, sim: SimNode, what: str, chance: float) -> None:
        if chance and not self.over and not sim.frozen and self.rng.random() < chance:
            self.meet(f"crash {what}", sim.name)
            self.crash(sim)

    def crash(self, sim: SimNode) -> None:
        """The agent dies; some of what was on its way to the disk is there all the same."""
        self.world.crash(sim, lambda waiting: self.rng.randrange(waiting + 1))
        if "rotten disk" in self.classes and self.rng.random() < 0.5:
            own = b"" if ROT_OWN_ENTRIES else sim.member.identity.id
            if sim.disk.rot(*self.rng.choice(ROTS), self.rng, own):
                self.meet("rotten disk", sim.name)
        self.later(0.1, 8, lambda: self._back(sim))

    def _back(self, sim: SimNode) -> None:
        if sim.node is None:
            self.world.trace.tell(self.world.clock.now_ns, sim.name, "back", "", "the agent starts again")
            self.world.start(sim)

    def pair(self) -> tuple[Address, Address]:
        """Two different hosts."""
        a, b = self.rng.sample(self.world.nodes, 2)
        return a.address, b.address

    def up(self) -> SimNode | None:
        """A host whose agent runs."""
        running = [sim for sim in self.world.nodes if sim.node is not None and not sim.frozen]
        return self.rng.choice(running) if running else None

    def part(self, cuts: list[tuple[Address, Address]], low_s: float, high_s: float) -> None:
        """Nothing passes these ways for a while."""
        for source, target in cuts:
            self.world.network.partition(source, target, one_way=True)
        self.later(low_s, high_s, lambda: self.world.network.mend(cuts))

    def around(self, some: list[SimNode]) -> list[tuple[Address, Address]]:
        """All ways between these and the others."""
        others = [sim for sim in self.world.nodes if sim not in some]
        return [way for a in some for b in others for way in ((a.address, b.address), (b.address, a.address))]

    def flap(self, cuts: list[tuple[Address, Address]], times: int) -> None:
        """A link that comes and goes."""
        self.part(cuts, 0.2, 2)
        if times:
            self.later(2, 4, lambda: self.flap(cuts, times - 1))

    def freeze(self, sim: SimNode, cut_off: bool) -> None:
        """The process stops; in a suspend the host's network is silent, too."""
        self.world.freeze(sim)
        cuts = self.around([sim]) if cut_off else []
        for source, target in cuts:
            self.world.network.partition(source, target, one_way=True)

        def thaw() -> None:
            self.world.network.mend(cuts)
            if sim.frozen:
                self.world.thaw(sim)

        self.later(0.5, 12, thaw)

    def listen(self, source: Address, target: Address, data: bytes) -> None:
        """What a stranger on the wire keeps to say it again."""
        if len(self._heard) < KEPT_HEARD:
            self._heard.append((source, target, data))
        elif self.rng.random() < 0.1:
            self._heard[self.rng.randrange(KEPT_HEARD)] = (source, target, data)

    @property
    def heard(self) -> list[tuple[Address, Address, bytes]]:
        return self._heard


def _one_way(f: Faults) -> Struck:
    f.part([f.pair()], 0.5, 15)
    return "one-way cut", "world"


def _dead_link(f: Faults) -> Struck:
    a, b = f.pair()
    f.part([(a, b), (b, a)], 2, 20)
    return "dead link", "world"


def _cut(f: Faults) -> Struck:
    """Two groups that do not hear each other."""
    f.part(f.around(f.rng.sample(f.world.nodes, f.rng.randrange(1, len(f.world.nodes)))), 2, 25)
    return "cut", "world"


def _flap(f: Faults) -> Struck:
    a, b = f.pair()
    f.flap([(a, b)] if f.rng.random() < 0.5 else [(a, b), (b, a)], f.rng.randrange(2, 6))
    return "flapping link", "world"


def _rate(f: Faults) -> Struck:
    sim = f.rng.choice(f.world.nodes)
    sim.clock.run_at(f.rng.randrange(-10_000, 10_001))
    return "clock rate", sim.name


def _jump(f: Faults) -> Struck:
    sim = f.rng.choice(f.world.nodes)
    sim.clock.wall_offset_ns += f.rng.choice((-3600, -60, -2, 2, 60, 3600)) * NS_PER_S
    return "wall jump", sim.name


def _stop(cut_off: bool) -> Callable[[Faults], Struck]:
    def do(f: Faults) -> Struck:
        sim = f.up()
        if sim is None:
            return None
        f.freeze(sim, cut_off)
        return ("suspend" if cut_off else "freeze"), sim.name

    return do


def _crash(f: Faults) -> Struck:
    sim = f.up()
    if sim is None:
        return None
    f.crash(sim)
    return "crash", sim.name


def _full(f: Faults) -> Struck:
    sim = f.rng.choice(f.world.nodes)
    sim.disk.full = True
    f.later(0.5, 8, lambda: setattr(sim.disk, "full", False))
    return "full disk", sim.name


def _flood(f: Faults) -> Struck:
    shout(f.world, f.rng, f.heard)
    return "flood", "stranger"


def _thief(f: Faults) -> Struck:
    sim = f.rng.choice([sim for sim in f.world.nodes if not sim.byzantine])
    if not sim.asked or sim.node is None or sim.frozen:
        return None
    replay_steps(f.world, sim, f.rng)
    return "thief", sim.name


def _lie(f: Faults) -> Struck:
    if f.byzantine is None or f.byzantine.sim.node is None:
        return None
    return f"byzantine {f.byzantine.lie()}", f.byzantine.sim.name


_RECURRING: dict[str, tuple[Callable[[Faults], Struck], float]] = {
    "one-way cut": (_one_way, 5), "dead link": (_dead_link, 5), "cut": (_cut, 12),
    "flapping link": (_flap, 10), "clock rate": (_rate, 4), "wall jump": (_jump, 8),
    "freeze": (_stop(False), 8), "suspend": (_stop(True), 12), "crash": (_crash, 6), "full disk": (_full, 6), "flood": (_flood, 6),
    "thief": (_thief, 0.5), "byzantine": (_lie, 1.5),
}  # fmt: skip
"""Class -> what happens, and how many seconds pass between two of them on average."""
