"""A new session key every twelve hours, and no datagram is lost for it."""

import dataclasses

from cloudisense.mesh.limits import Limits
from cloudisense.sim.meshes import Meshes

LIMITS = dataclasses.replace(Limits(), rekey_ms=20_000)


def keys_of(world: Meshes) -> dict[str, bytes]:
    return {h.name: h.live()._context.sessions.key.public for h in world.hosts}


def test_every_node_changes_its_key_and_nothing_is_dropped() -> None:
    world = Meshes(5, limits=LIMITS)
    world.run(5, world.whole)
    world.run(2)
    before, dropped = keys_of(world), {h.name: sum(h.live().dropped.values()) for h in world.hosts}
    incarnations = {h.name: h.live().incarnation for h in world.hosts}
    for _ in range(40):
        world.run(1)
        for host in world.hosts:
            host.live().append("alert", b"words", world.clock.instant())
            world.settle(host)
    after = keys_of(world)
    assert all(before[name] != after[name] for name in before)
    assert all(h.live().incarnation > incarnations[h.name] for h in world.hosts)
    assert {h.name: sum(h.live().dropped.values()) for h in world.hosts} == dropped
    assert world.run(2, lambda: len({h.live().feeds.vector() for h in world.hosts}) == 1)
    assert all(set(world.changes(a, b)) <= {"alive"} for a in world.hosts for b in world.hosts)


def test_a_member_that_misses_the_change_is_met_again() -> None:
    world = Meshes(3, limits=LIMITS)
    world.run(5, world.whole)
    world.cut(world.hosts[:1], world.hosts[1:])
    world.run(200)  # several keys on, and the old ones have ended
    world.network.heal()
    assert world.run(5, world.whole)


def test_the_claim_is_durable_before_the_key_is_used() -> None:
    world = Meshes(2, limits=LIMITS)
    world.run(5, world.whole)
    host = world[0]
    seen: set[tuple[int, bytes]] = set()
    for _ in range(300):
        world.run(0.1)
        put = next(row["value"] for row in host.disk.rows("meta") if row["key"] == "incarnation")
        assert isinstance(put, bytes)
        claimed = host.live()._context.sessions.key.public
        seen.add((int.from_bytes(put, "big"), claimed))
    assert len({key for _, key in seen}) >= 2
    numbers = [number for number, _ in sorted(seen)]
    assert len(numbers) == len(set(numbers)), "one incarnation, one key"
