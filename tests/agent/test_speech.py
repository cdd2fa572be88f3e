"""What an agent may say, to whom, and for whom it may act."""

import pytest

from cloudisense.host.catalogue import builtin_actions
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    made = World(1, builtin_actions(), nodes=3)
    made.nodes[2].member = made.mesh.member("n3", ("member",))
    for sim in made.nodes:
        made.start(sim)
    made.clock.run(10 * NS_PER_S, lambda: False)
    return made


def speech(world: World):
    node = world.nodes[0].node
    assert node is not None
    return node.agent._speech


def test_names(world: World) -> None:
    assert [speech(world).name_of(sim.member.identity.id) for sim in world.nodes] == ["n1", "n2", "n3"]
    assert speech(world).name_of(bytes(32)) == "unknown"


def test_only_actors_act(world: World) -> None:
    assert [speech(world).may_act(sim.member.identity.id) for sim in world.nodes] == [True, True, False]
    assert not speech(world).may_act(bytes(32))


def test_under_an_old_roster_nobody_acts_for_another() -> None:
    world = World(3, builtin_actions(), nodes=3)
    for sim in world.nodes:
        world.start(sim)
    world.clock.run(10 * NS_PER_S, lambda: False)
    own, *others = (sim.member.identity.id for sim in world.nodes)
    node = world.nodes[0].node
    assert node is not None
    assert not speech(world).behind and all(map(speech(world).may_act, others))
    for other in others:
        node.mesh._trust.heard(other, 99)
    assert speech(world).behind and not any(map(speech(world).may_act, others)) and not any(map(speech(world).may_help, others))
    assert speech(world).may_act(own) and speech(world).may_help(own), "it still helps itself"


def test_who_is_gone_neither_acts_nor_is_present() -> None:
    world = World(2, builtin_actions(), nodes=3)
    for sim in world.nodes:
        world.start(sim)
    world.clock.run(10 * NS_PER_S, lambda: False)
    gone = world.nodes[1].member.identity.id
    assert speech(world).present(gone) and speech(world).may_act(gone)
    assert speech(world).holder_for(gone) == gone
    world.crash(world.nodes[1])
    world.clock.run(60 * NS_PER_S, lambda: False)
    assert not speech(world).present(gone) and not speech(world).may_act(gone)
    own = world.nodes[0].member.identity.id
    assert [speech(world).holder_for(node) for node in (gone, own, bytes(32))] == [own, own, bytes(32)], "what it offered, we do"
    node = world.nodes[0].node
    assert node is not None
    node.mesh.members[gone].state = "left"
    assert speech(world).holder_for(gone) == gone, "who left or was revoked offers nothing"
    assert speech(world).present(world.nodes[0].member.identity.id)
    assert not speech(world).present(bytes(32))
