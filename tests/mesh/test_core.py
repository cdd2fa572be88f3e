"""The seam: whatever comes in, nothing is raised, and what is not from a member changes nothing."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.errors import LocalProtocolError
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Send
from cloudisense.mesh.events import DirectReceived
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.wire import Claims, Direct, Message, Ping, PingRequest, Push, PushPull, encode


def state(mesh: Mesh) -> object:
    """All that a stranger must not be able to change."""
    members = [(m.node, m.claim, m.state, tuple(m.evidence.items()), m.address, m.mismatches) for _, m in sorted(mesh.members.items())]
    return members, mesh.feeds.all(), mesh.feeds.count, mesh.incarnation, mesh._delivery._outbox.open.keys(), mesh._membership.claim


WORLDS: dict[str, Any] = {}


def running(net: Any) -> Any:
    """One mesh of three that has run a while, shared: the tests that use it must leave it as it is, which is what they show."""
    if "it" not in WORLDS:
        world = net("a", "b", "c")
        for name in "abc":
            world.say(name)
        assert world.run(5, lambda: world.all_know_all() and world.same_feeds())
        world.run(5)
        WORLDS["it"] = world
    world = WORLDS["it"]
    world["a"].mesh.poll_effects()
    world.now_ns += NS_PER_S  # the limiter forgets
    return world


SOURCES = st.sampled_from([("10.0.0.2", 7963), ("10.0.0.3", 7963), ("192.0.2.1", 5)])


@given(st.binary(max_size=300), SOURCES)
def test_random_datagrams_do_nothing(net: Any, data: bytes, source: tuple[str, int]) -> None:
    world = running(net)
    mesh = world["a"].mesh
    before, dropped = state(mesh), mesh.dropped.total()
    mesh.handle_datagram(data, source, world.instant())
    assert state(mesh) == before
    assert mesh.dropped.total() == dropped + 1
    assert mesh.poll_news() == mesh.poll_effects() == []


@given(st.data(), SOURCES)
def test_mutated_datagrams_do_nothing(net: Any, data: st.DataObject, source: tuple[str, int]) -> None:
    world = running(net)
    mesh = world["a"].mesh
    valid = data.draw(st.sampled_from([heard for heard, _ in world["a"].heard]))
    position = data.draw(st.integers(0, len(valid) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "insert", "none"])):
        case "flip":
            mutant = bytearray(valid)
            mutant[position] ^= data.draw(st.integers(1, 255))
        case "cut":
            mutant = valid[:position]
        case "insert":
            mutant = valid[:position] + data.draw(st.binary(min_size=1, max_size=9)) + valid[position:]
        case _:
            mutant = valid  # a replay
    before = state(mesh)
    mesh.handle_datagram(bytes(mutant), source, world.instant())
    assert state(mesh) == before
    sent = [effect for effect in mesh.poll_effects() if isinstance(effect, Send)]
    if source[0] == "192.0.2.1":
        assert sum(len(effect.data) for effect in sent if effect.address == source) <= 3 * len(mutant)


@given(st.binary(max_size=300), st.sampled_from("bcx"))
def test_random_messages_by_stream_are_dropped_or_understood(net: Any, data: bytes, peer: str) -> None:
    world = running(net)
    mesh = world["a"].mesh
    node = world[peer].id if peer in world.hosts else bytes(32)
    mesh.handle_bulk(node, data, world.instant())
    assert world.all_know_all()


NUMBERS = st.integers(-(2**63), 2**64 - 1)
JUNK = st.one_of(st.binary(max_size=60), st.just(b""))
VECTORS = st.lists(st.tuples(JUNK, NUMBERS, NUMBERS), max_size=4).map(tuple)
HOSTILE: st.SearchStrategy[Message] = st.one_of(
    st.builds(Ping, NUMBERS, JUNK, st.tuples(st.tuples(JUNK, JUNK))),
    st.builds(PingRequest, NUMBERS, JUNK),
    st.builds(Claims, st.tuples(st.tuples(JUNK, JUNK))),
    st.builds(Push, st.tuples(JUNK), st.booleans()),
    st.builds(
        PushPull,
        st.tuples(st.tuples(JUNK, JUNK)),
        st.lists(st.tuples(JUNK, NUMBERS, st.booleans()), max_size=4).map(tuple),
        VECTORS,
        NUMBERS,
        st.booleans(),
    ),
)


@given(HOSTILE, st.sampled_from(["b", "stranger"]))
def test_a_member_gone_mad_raises_nothing_and_changes_only_its_own_counters(net: Any, message: Message, peer: str) -> None:
    world = running(net)
    a = world["a"].mesh
    before = state(a)
    a.handle_bulk(world["b"].id if peer == "b" else bytes(32), encode(message), world.instant())
    for member in a.members.values():
        member.mismatches = 0
    assert state(a) == before
    assert a.poll_news() == []


def test_a_stranger_over_tls_is_heard_only_after_its_claim(net: Any) -> None:
    world = net("a", "b")
    a, b = world["a"].mesh, world["b"]
    a.handle_bulk(b.id, encode(Direct(b"too early")), world.instant())
    assert a.dropped["not a member yet"] == 1
    assert a.poll_news() == []
    claim = (b.mesh._membership.claim, b.member.certificate)
    a.handle_bulk(b.id, encode(PushPull((claim,), (), (), 0, False)), world.instant())
    a.handle_bulk(b.id, encode(Direct(b"now")), world.instant())
    assert [item for item in a.poll_news() if isinstance(item, DirectReceived)] == [DirectReceived(b.id, b"now")]


def test_nobody_speaks_as_ourselves_or_with_a_revoked_key(net: Any) -> None:
    world = net("a", "b")
    a = world["a"].mesh
    for peer in (a.id, world.keys.revoked.identity.id):
        a.handle_bulk(peer, encode(Direct(b"")), world.instant())
    assert a.dropped["revoked key"] == 2


def test_direct_messages_arrive_from_whom_they_are(net: Any) -> None:
    world = net("a", "b")
    assert world.run(5, world.all_know_all)
    for size in (10, 5000):
        world["a"].mesh.send_direct(world["b"].id, bytes(size))
    world["a"].mesh.send_direct(b"nobody" * 5, b"")
    world.settle(world["a"])
    world.run(0.1)
    direct = [item for item in world["b"].news if isinstance(item, DirectReceived)]
    assert [(item.peer, len(item.body)) for item in direct] == [(world["a"].id, 10), (world["a"].id, 5000)]


def test_a_message_over_its_limit_is_dropped(net: Any) -> None:
    world = net("a", "b")
    assert world.run(5, world.all_know_all)
    a = world["a"]
    a.mesh.handle_bulk(world["b"].id, bytes(world.limits.bulk_bytes + 1), world.instant())
    assert a.mesh.dropped["malformed message: too long"] == 1
    sealed = world["b"].mesh._sessions.seal(a.id, encode(Direct(bytes(world.limits.datagram_bytes))))
    a.mesh.handle_datagram(sealed, world["b"].address, world.instant())
    assert a.mesh.dropped["malformed message: too long"] == 2
    assert not [item for item in a.mesh.poll_news() if isinstance(item, DirectReceived)]


def test_what_was_refused_is_counted_under_few_names(net: Any) -> None:
    """Reasons are ours, never a peer's words: the table cannot be made to grow."""
    world = running(net)
    assert len(world["a"].mesh.dropped) < 40


@pytest.mark.parametrize("name", ["nonsense", ("probe", "1"), ("suspicion", 1), ("push", 1)])
def test_a_timer_that_nobody_knows_is_our_bug(net: Any, name: object) -> None:
    world = net("a")
    world["a"].mesh._out.timers.set(name, 0)
    with pytest.raises(LocalProtocolError):
        world["a"].mesh.handle_timer(world.instant())


def test_what_is_due_is_done_in_one_call_however_late(net: Any) -> None:
    world = net("a", "b", "c")
    assert world.run(5, world.all_know_all)
    mesh = world["a"].mesh
    world.now_ns += 3600 * NS_PER_S  # the host slept an hour
    mesh.handle_timer(world.instant())
    deadline = mesh.next_deadline()
    assert deadline is not None
    assert deadline > world.now_ns
    world.settle(world["a"])
    assert world.run(60, world.all_know_all)


def test_the_way_in_that_the_page_for_harnesses_shows() -> None:
    """docs/wire.md, "A harness in Python": this is that code."""
    import random

    from cloudisense.keys import issue_for_tests
    from cloudisense.keys.testing import WALL_MS
    from cloudisense.mesh.core import Mesh
    from cloudisense.mesh.instant import NS_PER_MS, Instant
    from cloudisense.mesh.limits import Limits

    keys = issue_for_tests(7)
    alice, bob = keys.member("alice"), keys.member("bob")
    addresses = {"alice": ("10.0.0.1", 7963), "bob": ("10.0.0.2", 7963)}
    now = Instant(boot_ns=0, wall_ns=WALL_MS * NS_PER_MS)
    make: Callable[[str, Any], Mesh] = lambda name, member: Mesh(  # noqa: E731
        member.identity,
        member.certificate,
        keys.chain,
        Limits(),
        random.Random(name),
        Stored(name=name, address=addresses[name], boot=1, incarnation=1, seeds=(addresses["alice"],)),
    )
    nodes = {"alice": make("alice", alice), "bob": make("bob", bob)}
    for node in nodes.values():
        node.start(now)
    for _ in range(4):
        for name, node in nodes.items():
            for effect in node.poll_effects():
                for other, address in addresses.items():
                    if isinstance(effect, Send) and effect.address == address:
                        nodes[other].handle_datagram(effect.data, addresses[name], now)
    assert nodes["alice"].present() == [bob.identity.id]
    assert nodes["bob"].present() == [alice.identity.id]
