"""The checkers are checked: each finds the world in which its invariant is broken, and none finds fault with a sound one."""

import pytest

from cloudisense.agent.entries import KIND_OF, Failed
from cloudisense.keys.encoding import pack
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.sim.checkers import CHECKERS, violations
from cloudisense.sim.scenarios import disk_full, furnish
from cloudisense.sim.world import World


@pytest.fixture
def healed(actions) -> World:
    return disk_full(1, actions).world


def found(world: World) -> set[str]:
    return {problem.split(":")[0] for problem in violations(world)}


def test_a_sound_world(healed: World) -> None:
    assert found(healed) == set()
    assert len(healed.ran) == 2


def test_a_step_that_runs_twice(healed: World) -> None:
    healed.ran.append(healed.ran[0])
    assert found(healed) == {"H2"}


def test_a_step_without_intent_outcome_or_capability(healed: World) -> None:
    healed.ran.append(("n1", bytes(16), 0))
    assert found(healed) == {"H1", "H4"}
    assert sum("H4" in problem for problem in violations(healed)) == 2


def test_a_canary_that_is_harmed(healed: World) -> None:
    healed.nodes[0].host.files = [f for f in healed.nodes[0].host.files if not f.canary]
    assert found(healed) == {"H3"}


def test_an_incident_that_does_not_end(actions) -> None:
    world = World(2, actions)
    furnish(world)
    for sim in world.nodes:
        world.start(sim)
    world.clock.run(10 * NS_PER_S, lambda: False)
    world.nodes[0].host.fill("/vol/scratch", 0.95, world.rng)
    world.clock.run(60 * NS_PER_S, lambda: any(sim.node.agent.incidents for sim in world.nodes if sim.node))
    assert "H5" in found(world)


def test_a_fix_that_is_asked_for_again(healed: World) -> None:
    node = healed.nodes[0].node
    assert node is not None
    incident = next(iter(node.agent.incidents.values()))
    help = incident.help
    assert help is not None
    failed = Failed(incident.id, help.candidates[0].signature, "llm", "no")
    for body in (failed, help):
        healed.command(healed.nodes[0], lambda n, b=body: n.mesh.append(KIND_OF[type(b)], pack(b), healed.clock.instant()))
    healed.clock.run(healed.clock.now_ns + 60 * NS_PER_S, lambda: False)
    assert found(healed) == {"H5"}


def test_nodes_that_disagree(healed: World) -> None:
    """One node is cut off for a moment and says something that the others cannot hear; its junk breaks no checker."""
    sim, *others = healed.nodes
    for other in others:
        healed.network.partition(sim.address, other.address)
    healed.command(sim, lambda node: node.mesh.append("alert", b"", healed.clock.instant()))
    healed.clock.run(healed.clock.now_ns + NS_PER_S // 10, lambda: False)
    assert found(healed) == {"M3"}
    healed.network.heal()
    healed.clock.run(healed.clock.now_ns + 30 * NS_PER_S, lambda: False)
    assert found(healed) == set()


def test_a_fork(healed: World) -> None:
    a, b = (sim.node for sim in healed.nodes[:2])
    assert a is not None and b is not None
    for node, body in ((a, b"one"), (b, b"two")):
        node.mesh._delivery.feeds.append(healed.nodes[2].member.identity, 9, 0, "x", body)
    assert "F1" in found(healed)


def test_every_checker_has_a_test() -> None:
    assert sorted(CHECKERS) == ["F1", "H1", "H2", "H3", "H4", "H5", "M3"]
