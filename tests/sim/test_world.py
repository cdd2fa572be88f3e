"""Several nodes in one process; the plots are in tests/simulation."""

from cloudisense.agent.node import Node
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S
from cloudisense.sim.scenarios import furnish
from cloudisense.sim.world import World


def started(actions, seed: int = 1, **more) -> World:
    world = World(seed, actions, **more)
    furnish(world)
    for sim in world.nodes:
        world.start(sim)
    world.clock.run(10 * NS_PER_S, lambda: False)
    return world


def test_they_meet(actions) -> None:
    world = started(actions, nodes=4)
    for sim in world.nodes:
        assert sim.node is not None and len(sim.node.mesh.present()) == 3


def test_subjects_have_file_systems(actions) -> None:
    world = World(1, actions, nodes=3, subjects=2)
    assert [bool(sim.host.paths) for sim in world.nodes] == [True, True, False]


def test_a_restart_brings_back_what_was_synced_in_a_new_boot(actions) -> None:
    world = started(actions)
    sim = world.nodes[0]
    sim.host.fill("/vol/scratch", 0.95, world.rng)
    world.clock.run(70 * NS_PER_S, lambda: False)
    assert sim.node is not None
    before = {i.id: (i.state, i.planned_by, i.verdict) for i in sim.node.agent.incidents.values()}
    boot, incarnation, vector = sim.boot, sim.node.mesh.incarnation, sim.node.mesh.feeds.vector()
    assert before
    world.crash(sim)
    world.command(sim, lambda node: 1 / 0)  # nobody there
    world.start(sim)
    node: Node | None = sim.node
    assert node is not None
    assert sim.boot == boot + 1 and node.mesh.incarnation > incarnation
    assert node.mesh.feeds.vector() == vector
    assert {i.id: (i.state, i.planned_by, i.verdict) for i in node.agent.incidents.values()} == before


def test_nothing_reaches_an_agent_from_before_its_crash(actions) -> None:
    """Answers and syncs that were under way are lost with it."""
    world = started(actions)
    sim = world.nodes[0]
    sim.host.fill("/vol/scratch", 0.95, world.rng)
    assert world.clock.run(60 * NS_PER_S, lambda: bool(sim.disk.rows("spent")))
    dead = sim.node
    assert dead is not None
    heard = []
    dead.handle_event = lambda event, now: heard.append(event)
    world.crash(sim)
    world.clock.run(world.clock.now_ns + 5 * NS_PER_S, lambda: False)
    assert heard == [] and world.ran == []


def test_the_gate_of_the_world_is_the_real_one(actions) -> None:
    world = started(actions)
    sim = world.nodes[0]
    assert sim.gate is not None
    sim.gate.paused = True
    sim.host.fill("/vol/scratch", 0.95, world.rng)
    world.clock.run(30 * NS_PER_S, lambda: False)
    assert world.ran == []
    assert any("this host is paused" in line.text for line in world.trace.lines)
    assert world.clock.now_ns // NS_PER_MS == 30_000
