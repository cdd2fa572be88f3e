"""A forked feed: proven by two signatures, told to everyone, believed by nobody after."""

from dataclasses import replace

import pytest

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.events import EntryArrived, Misbehaved
from cloudisense.mesh.feed import Entry, Feeds, OverQuota
from cloudisense.mesh.fork import check_fork
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import LAN
from cloudisense.mesh.wire import Direct, Forks, Push, encode
from cloudisense.sim.meshes import Host, Meshes

FEW = replace(LAN, entries_per_day=5, closing_reserve=2)


def branch(world: Meshes, node: Host, *bodies: bytes) -> list[Entry]:
    """A feed that ``node`` could sign; generation 9 is none of its own."""
    feeds = Feeds(world.keys.mesh_id, LAN)
    return [feeds.append(node.member.identity, 9, 0, "note", body) for body in bodies]


def push(world: Meshes, target: Host, source: Host, *entries: Entry) -> None:
    world.inject(target, source, encode(Push(tuple(e.data for e in entries), answer=True)))


def mesh_of_three(seed: int) -> tuple[Meshes, Host, Host, Host]:
    world = Meshes(0, seed)
    nodes = world.add(), world.add(), world.add()
    world.run(5)
    return world, *nodes


@pytest.mark.parametrize("place", ["same", "after"])
def test_a_fork_is_proven_and_spread_and_ends_all_belief(place: str) -> None:
    world, a, b, c = mesh_of_three(1)
    one, other = branch(world, a, b"one", b"one more"), branch(world, a, b"other", b"other more")
    push(world, b, a, one[0])
    world.run(0.01)
    if place == "same":
        push(world, c, a, other[0])
        world.run(0.01)
        push(world, b, c, other[0])
    else:
        # What follows on the other branch does not follow on ours: proof as well.
        push(world, b, c, other[1])
    world.run(3)
    for node in (b, c):
        assert node.mesh is not None
        assert a.member.identity.id in node.mesh.forgers
        assert world.told(node, Misbehaved) == [Misbehaved(a.member.identity.id, "forked")]
        assert [row["node"] for row in node.disk.rows("forks")] == [a.member.identity.id]
        heard = len(world.told(node, EntryArrived))
        push(world, node, a, *branch(world, a, b"one", b"one more"))
        world.inject(node, a, encode(Direct(b"do it")))
        world.append(a, "note", b"believe me")
        world.run(1)
        assert len(world.told(node, EntryArrived)) == heard
        assert node.mesh.dropped["entry of a forger"] and node.mesh.dropped["message of a forger"] == 1
    # Whatever each holds of the forger's feed, they agree: no repair goes on for ever.
    assert b.mesh and c.mesh and b.mesh.feeds.durable_sum == c.mesh.feeds.durable_sum and b.mesh.feeds.vector() == c.mesh.feeds.vector()
    world.kill(b)
    world.start(b)
    late = world.add()
    world.run(8)
    assert b.mesh and a.member.identity.id in b.mesh.forgers
    assert late.mesh and a.member.identity.id in late.mesh.forgers


def test_what_proves_nothing_convicts_nobody() -> None:
    world, a, b, _ = mesh_of_three(2)
    own = branch(world, a, b"one", b"two", b"three")
    keys = issue_for_tests(77)
    foreign = Feeds(keys.mesh_id, LAN).append(keys.member("x").identity, 9, 0, "note", b"x")
    stranger = Feeds(world.keys.mesh_id, LAN).append(world.hosts[1].member.identity, 9, 0, "note", b"x")
    for first, second in ((own[0], own[0]), (own[0], own[1]), (own[0], own[2]), (own[0], foreign), (own[0], stranger)):
        with pytest.raises(RemoteProtocolError):
            check_fork((first.data, second.data), world.keys.mesh_id, LAN.entry_bytes)
        world.inject(b, a, encode(Forks(((first.data, second.data),))))
    tampered = own[0].data[:-1] + bytes([own[0].data[-1] ^ 1])
    world.inject(b, a, encode(Forks(((own[0].data, tampered),))))
    assert b.mesh is not None and not b.mesh.forgers.proofs


def test_a_restored_snapshot_is_no_forger_and_gets_its_own_feed_back() -> None:
    world, a, b, _ = mesh_of_three(3)
    for body in (b"1", b"2"):
        world.append(a, "note", body)
    world.run(2)
    a.disk.crash()
    lost = [e.reference for e in a.mesh.feeds.all()] if a.mesh is not None else []
    a.disk = type(a.disk)(world.clock, world.rng)  # the boot counter is gone, too
    world.start(a)
    world.append(a, "note", b"3")
    world.run(10)
    assert a.mesh is not None and b.mesh is not None
    assert not b.mesh.forgers.proofs and not a.mesh.forgers.proofs
    assert all(a.mesh.feeds.is_durable(reference) for reference in lost)
    assert a.mesh.feeds.vector() == b.mesh.feeds.vector() and len(b.mesh.feeds.of(a.member.identity.id)) == 3


def test_nothing_is_acknowledged_or_passed_on_before_it_is_durable() -> None:
    world, a, b, _ = mesh_of_three(4)
    entry = branch(world, a, b"one")[0]
    assert b.mesh is not None
    b.mesh.handle_bulk(a.member.identity.id, encode(Push((entry.data,), answer=True)), world.clock.instant())
    b.mesh.handle_bulk(a.member.identity.id, encode(Push((entry.data,), answer=True)), world.clock.instant())
    assert b.mesh.feeds.get(entry.reference) and not b.mesh.feeds.is_durable(entry.reference)
    assert b.mesh.feeds.missing_at(()) == []
    assert len([e for e in b.mesh.poll_news() if isinstance(e, EntryArrived)]) == 1, "news it is"


def test_above_the_quota_an_author_speaks_no_more_but_ends_what_it_began() -> None:
    keys = issue_for_tests(5)
    identity, noon = keys.member("x").identity, 86_400_000 * 20_000 + 43_200_000
    cheat, honest = Feeds(keys.mesh_id, LAN), Feeds(keys.mesh_id, FEW)
    made = [cheat.append(identity, 1, noon, "note", b"%d" % i) for i in range(5)]
    previous = [bytes(32), *(e.hash for e in made)]
    for entry, before in zip(made, previous, strict=False):
        assert honest.accept(entry, before) == [entry]
    over = cheat.append(identity, 1, noon, "note", b"x")
    with pytest.raises(RemoteProtocolError, match="over quota"):
        honest.accept(over, made[-1].hash)
    own = Feeds(keys.mesh_id, FEW)
    for i in range(5):
        own.append(identity, 2, noon, "note", b"%d" % i)
    with pytest.raises(OverQuota):
        own.append(identity, 2, noon, "note", b"x")
    with pytest.raises(OverQuota):
        own.append(identity, 2, noon - 86_400_000, "note", b"a clock that was set back begins no new day")
    own.append(identity, 2, noon, "outcome", b"")
    own.append(identity, 2, noon, "closed", b"")
    with pytest.raises(OverQuota):
        own.append(identity, 2, noon, "closed", b"")
    own.append(identity, 2, noon + 86_400_000, "note", b"the next day")


def test_bytes_are_bounded_too() -> None:
    keys = issue_for_tests(6)
    own = Feeds(keys.mesh_id, replace(LAN, feed_bytes=3000))
    identity = keys.member("x").identity
    own.append(identity, 1, 0, "note", bytes(2000))
    with pytest.raises(OverQuota):
        own.append(identity, 1, 0, "note", bytes(2000))


def test_over_quota_is_told_once() -> None:
    world = Meshes(0, 7, FEW)
    a, b = world.add(), world.add()
    world.run(3)
    entries = Feeds(world.keys.mesh_id, LAN)
    wall_ms = Instant(0, 0).wall_ms
    made = [entries.append(a.member.identity, 9, wall_ms, "note", b"%d" % i) for i in range(9)]
    for entry in made:
        push(world, b, a, entry)
        world.run(0.1)
    assert b.mesh is not None and world.told(b, Misbehaved) == [Misbehaved(a.member.identity.id, "over quota")]
    assert len(b.mesh.feeds.of(a.member.identity.id)) == 5 and b.mesh.dropped["over quota"] >= 1
