"""Mesh and agent behind one seam."""

from cloudisense.agent.effects import Sample
from cloudisense.agent.events import FileSystem, Sampled
from cloudisense.host.catalogue import builtin_actions
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.events import Persisted
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.sim.world import World


def test_the_seam() -> None:
    """A lone node, its host played by hand: samples until the disk is full, an alert that is durable before it is news."""
    world = World(1, builtin_actions(), nodes=1)
    world.start(world.nodes[0])
    node = world.nodes[0].node
    assert node is not None
    now_ns, done = 0, []
    waiting: list[Persist] = []
    while not done and now_ns < 5_000 * NS_PER_MS:
        deadline = node.next_deadline()
        assert deadline is not None and deadline >= now_ns, "never in the past, or the caller would spin"
        now = Instant(now_ns := max(deadline, now_ns + 1), now_ns)
        node.handle_timer(now)
        for effect in node.poll_effects():
            if isinstance(effect, Sample):
                node.handle_event(Sampled(effect.token, FileSystem(100, 95, 10, 1)), now)
        effects = node.poll_effects()
        assert node.poll_effects() == []
        waiting += [e for e in effects if isinstance(e, Persist) and e.token]
        if waiting:
            assert node.agent.incidents == {}, "not before it is on disk"
            [put] = waiting[0].rows
            assert isinstance(put, Put)
            done.append(put.row["data"])
            node.handle_event(Persisted(waiting[0].token), now)
            assert [i.kind for i in node.agent.incidents.values()] == ["disk_full"]
    assert done
