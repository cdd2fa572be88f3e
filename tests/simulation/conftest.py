"""A stage for plots in virtual time: furnished hosts, time that passes until something happens, and the checkers at the end."""

from collections.abc import Callable

import pytest

from cloudisense.agent.catalogue import Action
from cloudisense.agent.entries import KIND_OF, Body
from cloudisense.agent.incident import Incident
from cloudisense.host.catalogue import builtin_actions
from cloudisense.keys.encoding import pack
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.sim.checkers import violations
from cloudisense.sim.network import Weather
from cloudisense.sim.scenarios import furnish
from cloudisense.sim.world import SimNode, World


class Stage:
    """A world whose agents have met."""

    def __init__(
        self,
        seed: int,
        actions: tuple[Action, ...],
        nodes: int = 3,
        weather: Weather | None = None,
        subjects: int = 1,
        before: Callable[[World], None] = lambda world: None,
    ) -> None:
        self.world = World(seed, actions, nodes, weather, subjects)
        furnish(self.world)
        before(self.world)
        self.subject, *self.helpers = self.world.nodes
        for sim in self.world.nodes:
            self.world.start(sim)
        self.run(10)

    def fill(self, sim: SimNode | None = None) -> None:
        """Fill a disk to 95 %; the first host's, when none is named."""
        (sim or self.subject).host.fill("/vol/scratch", 0.95, self.world.rng)

    def until(self, stop: Callable[[], bool], seconds: int = 120) -> bool:
        """Let time pass; True when it came to ``stop``."""
        return self.world.clock.run(self.world.clock.now_ns + seconds * NS_PER_S, stop)

    def run(self, seconds: int) -> None:
        """Let time pass."""
        self.until(lambda: False, seconds)

    def say(self, sim: SimNode, body: Body) -> None:
        """Make an agent say something, true or not."""
        now = self.world.clock.instant()
        self.world.command(sim, lambda node: node.mesh.append(KIND_OF[type(body)], pack(body), now))

    def incidents(self, sim: SimNode | None = None) -> list[Incident]:
        """What a node knows, oldest first; the first host's view, when none is named."""
        node = (sim or self.subject).node
        return sorted(node.agent.incidents.values(), key=lambda i: i.opened_ms) if node is not None else []

    def incident(self, sim: SimNode | None = None) -> Incident | None:
        """The newest."""
        return next(reversed(self.incidents(sim)), None)

    def over(self, count: int = 1) -> bool:
        """Does every living node know of ``count`` incidents, and the end of each?"""
        return all(
            len(self.incidents(sim)) >= count and all(i.over for i in self.incidents(sim))
            for sim in self.world.nodes
            if sim.node is not None
        )

    def ended(self, count: int = 1) -> bool:
        """The same, by the subject's own word, whatever peers said meanwhile."""
        return self.over(count) and all(i.ended for sim in self.world.nodes for i in self.incidents(sim))

    def in_state(self, *states: str) -> bool:
        """Is the newest incident of the first host in one of these?"""
        incident = self.incident()
        return incident is not None and incident.state in states

    def heal(self, count: int = 1) -> Incident:
        """Fill, wait for the end of incident number ``count``, and give it back."""
        self.fill()
        assert self.until(lambda: self.over(count)), [i.state for i in self.incidents()]
        incident = self.incident()
        assert incident is not None
        return incident

    def told(self, topic: str) -> list[str]:
        """What the first host told its operator under ``topic``."""
        return [line.text for line in self.world.trace.lines if line.node == self.subject.name and line.topic == topic]

    def quiet(self) -> list[str]:
        """A minute of peace, then everything that is wrong."""
        self.run(60)
        return violations(self.world)


@pytest.fixture(scope="session")
def actions() -> tuple[Action, ...]:
    return builtin_actions()


@pytest.fixture
def stage(actions: tuple[Action, ...]) -> Callable[..., Stage]:
    return lambda seed, **more: Stage(seed, actions, **more)
