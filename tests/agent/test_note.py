"""A note reaches every operator once, and what is no clean line reaches none."""

import pytest

from cloudisense.agent.entries import NOTE_BYTES, Note
from cloudisense.keys.encoding import pack
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.sim.world import World


def pass_time(world: World) -> None:
    world.clock.run(world.clock.now_ns + 5 * NS_PER_S, lambda: False)


def running() -> World:
    world = World(seed=7, actions=(), nodes=3)
    for sim in world.nodes:
        world.start(sim)
    pass_time(world)
    return world


def notes(world: World) -> list[tuple[str, str]]:
    return [(line.node, line.text) for line in world.trace.lines if line.topic == "note"]


def test_every_node_tells_it_once() -> None:
    world = running()
    speaker = world.nodes[1].node
    assert speaker is not None
    speaker.command(lambda: speaker.agent.note("the switch is replaced at noon", world.clock.instant()), world.clock.instant())
    world._carry_out(world.nodes[1])
    pass_time(world)
    assert sorted(notes(world)) == [(name, "the switch is replaced at noon") for name in ("n1", "n2", "n3")]


@pytest.mark.parametrize("text", ["\x1b[2J", "a\nb", "x" * (NOTE_BYTES + 1)])
def test_what_would_spoil_a_terminal_or_a_log_is_dropped(text: str) -> None:
    world = running()
    speaker, other = world.nodes[1].node, world.nodes[0].node
    assert speaker is not None and other is not None
    speaker.command(lambda: speaker.mesh.append("note", pack(Note(text)), world.clock.instant()) and None, world.clock.instant())
    world._carry_out(world.nodes[1])
    pass_time(world)
    assert notes(world) == []
    assert sum(count for reason, count in other.mesh.dropped.items() if "note" in reason) == 1
