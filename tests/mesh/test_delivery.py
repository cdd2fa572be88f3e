"""Entries on their way: durable before they leave, durable before they are acknowledged, and everywhere in the end."""

import hashlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Roster
from cloudisense.mesh.delivery import GENERATION_BITS
from cloudisense.mesh.effects import Persist, Send, SendBulk
from cloudisense.mesh.events import EntryArrived, EntryDelivered, Persisted
from cloudisense.mesh.feed import ENTRY, GENESIS
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.wire import Got, Push, PushPull, decode


def formed(net: Any, *names: str, **options: Any) -> Any:
    world = net(*names, **options)
    assert world.run(5, world.all_know_all)
    assert world.run(5, world.same_feeds)
    world.run(1)
    return world


def entry(net: Any, by: Identity, number: int = 0, previous: bytes = GENESIS, generation: int = 1, body: bytes = b"") -> bytes:
    return seal(by, ENTRY, net.keys.mesh_id, pack([generation, number, previous, 1, "alert", body]))


def push(net: Any, to: str, by: str, *entries: bytes) -> None:
    """``by`` pushes ``entries`` to ``to``, sealed as ever."""
    net[by].mesh._membership.send(net[to].id, Push(entries, answer=True))
    net.settle(net[by])
    net.run(0.01)


def messages(net: Any, at: str, kind: type) -> list[Any]:
    """Every message of ``kind`` that ``at`` was sent, in the order of arrival."""
    return [message for message in net[at].opened if isinstance(message, kind)]


def watch(net: Any, *names: str) -> None:
    """Note every message that ``names`` open, as ``opened``."""
    for name in names:
        host = net[name]
        host.opened = []
        real = host.mesh._message

        def noted(peer: bytes, data: bytes, now: Any, limit: int, host: Any = host, real: Any = real) -> None:
            with suppress(RemoteProtocolError):
                host.opened.append(decode(data, limit))
            real(peer, data, now, limit)

        host.mesh._message = noted


# -- the good way ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 5])
def test_an_entry_is_news_everywhere_once_and_delivered_when_all_have_it(net: Any, size: int) -> None:
    world = formed(net, *"abcde"[:size])
    world.say("a", b"hello")
    assert world.run(1, lambda: world["a"].delivered() == 1)
    assert all(host.arrived() == [b"hello"] for host in world.hosts.values())
    world.run(20)
    assert all(host.arrived() == [b"hello"] for host in world.hosts.values())
    assert world["a"].delivered() == 1
    assert all(len(host.rows("entries")) == 1 for host in world.hosts.values())


def test_it_goes_out_at_once_not_on_a_tick(net: Any) -> None:
    world = formed(net, *"abcde")
    start = world.now_ns
    world.say("c")
    assert world.run(1, lambda: world["c"].delivered() == 1)
    assert world.now_ns - start < 5_000_000, "two trips and two writes"


def test_large_entries_go_by_stream(net: Any) -> None:
    world = formed(net, "a", "b")
    before = len(world["b"].bulk)
    world.say("a", bytes(5000))
    assert world.run(1, lambda: world["a"].delivered() == 1)
    assert len(world["b"].bulk) == before + 1
    with pytest.raises(ValueError, match="limit"):
        world.say("a", bytes(9000))
    world.say("a", b"after")
    assert world.run(1, lambda: world["a"].delivered() == 2)


# -- durable first ---------------------------------------------------------------------------------------------------


def test_nothing_leaves_before_it_is_durable(net: Any) -> None:
    """Not by push, and not by repair either; its own author has not heard it yet."""
    world = formed(net, "a", "b", "c")
    watch(world, "b", "c")
    world["a"].slow = True
    for i in range(3):
        world.say("a", bytes([i]))
    world.run(10)
    for name in "bc":  # a push-pull right now
        world[name].mesh._delivery.push_pull(world["a"].id, reply=True)
        world.settle(world[name])
    world.run(1)
    assert messages(world, "b", Push) == messages(world, "c", Push) == []
    assert world["a"].arrived() == []
    assert world["a"].mesh.feeds.vector() == ()
    assert any(isinstance(message, PushPull) for message in world["b"].opened)
    world.release("a")
    assert world.run(1, lambda: world["a"].delivered() == 3)


def test_each_push_follows_the_persisted_of_its_own_entry(net: Any) -> None:
    world = formed(net, "a", "b")
    a, now = world["a"], world.instant()
    a.mesh.append("alert", b"1", now)
    a.mesh.append("alert", b"2", now)
    effects = a.mesh.poll_effects()
    assert [type(effect) for effect in effects] == [Persist, Persist]
    assert a.mesh.poll_news() == []
    for effect, number in zip(effects, (0, 1), strict=True):
        now = Instant(now.boot_ns + number * Limits().gather_ms * NS_PER_MS, now.wall_ns, True)
        a.mesh.handle_event(Persisted(effect.token), now)
        [sent] = [item for item in a.mesh.poll_effects() if isinstance(item, Send | SendBulk)]
        peer, data = world["b"].mesh._sessions.open(sent.data, now)
        assert peer == a.id
        message = decode(data, 2000)
        assert isinstance(message, Push)
        assert f"{number + 1}".encode() in message.entries[0]
        assert [item.entry.reference.number for item in a.mesh.poll_news() if isinstance(item, EntryArrived)] == [number]
        a.mesh.handle_event(Persisted(effect.token), now)
        assert a.mesh.poll_effects() == [], "a token counts once"


def test_nothing_is_acknowledged_before_it_is_durable_however_often_it_comes(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    watch(world, "a")
    world["b"].slow = True
    world.say("a")
    world.run(10)
    assert {message.references[0][0] for message in messages(world, "a", Got)} == {world["a"].id}
    assert len(messages(world, "a", Got)) == Limits().push_attempts - 5, "c's"
    assert world["a"].delivered() == 0
    assert world["b"].arrived() == [b"words"], "it is news at once: whatever follows from it is written after it"
    assert world["b"].mesh.feeds.vector() == ()
    world.release("b")
    assert world.run(1, lambda: world["a"].delivered() == 1)
    assert world["b"].arrived() == [b"words"]


def test_a_crash_before_the_write_loses_nothing_that_was_acknowledged(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    world["b"].slow = True
    world.say("a")
    world.run(0.5)
    world.kill("b")
    world["b"].slow = False
    world.start("b")
    assert world["b"].mesh.feeds.vector() == ()
    assert world.run(10, lambda: world["a"].delivered() == 1)
    assert world["b"].arrived() == [b"words"]


# -- repair ----------------------------------------------------------------------------------------------------------


def test_lost_pushes_are_tried_again(net: Any) -> None:
    world = formed(net, "a", "b")
    lost: list[int] = []
    world.lose = lambda source, target: source.name == "a" and len(lost) < 3 and not lost.append(1)
    world.say("a")
    assert world.run(1, lambda: world["a"].delivered() == 1)
    assert len(lost) == 3


def test_a_lost_acknowledgement_is_given_again(net: Any) -> None:
    world = formed(net, "a", "b")
    world.lose = lambda source, target: source.name == "b"
    world.say("a")
    world.run(0.05)
    world.heal()
    assert world.run(0.1, lambda: world["a"].delivered() == 1), "with the first retry, long before a digest says so"
    assert world["b"].arrived() == [b"words"], "and is no news twice"


def test_acknowledgements_that_were_all_lost_are_read_from_an_equal_digest(net: Any) -> None:
    """Everybody has the entry, so no digest differs and nothing is repaired; the author must learn it all the same."""
    world = formed(net, "a", "b")
    watch(world, "a")
    world["b"].mesh._delivery._acknowledge = lambda entries, now: None  # the network loses every one of them
    detector = world["a"].mesh._detector
    compare, detector._compare = detector._compare, lambda peer, digest, now: None
    world.say("a")
    world.run(5)
    assert world["b"].arrived() == [b"words"]
    assert world["a"].delivered() == 0
    detector._compare = compare
    assert world.run(5, lambda: world["a"].delivered() == 1)
    assert messages(world, "a", Got) == []
    assert world.changes("a", "b") == ["alive"], "b was never given up for dead"


def test_the_pushes_end_and_the_digest_repairs(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    watch(world, "b", "c")
    pushes = 0

    def lose(source: Any, target: Any) -> bool:
        nonlocal pushes
        pushes += source.name == "a" and target == world["b"].address
        return source.name == "a" and target == world["b"].address and pushes <= Limits().push_attempts

    world.lose = lose
    world.say("a")
    assert not world.run(0.4, lambda: world["a"].delivered() == 1)
    assert world.run(3, lambda: world["a"].delivered() == 1), "every entry reaches every live node within 3 probe periods"
    world.run(10)
    assert len(messages(world, "c", Push)) == 1


def test_who_was_cut_off_gets_what_it_missed_from_anybody(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    a, c = world["a"].address, world["c"].address
    world.lose = lambda source, target: (source.address, target) in ((a, c), (c, a))
    for i in range(5):
        world.say("a", bytes([i]))
    assert world.run(20, lambda: len(world["c"].arrived()) == 5), "b passes them on"
    assert world["c"].arrived() == [bytes([i]) for i in range(5)]
    world.heal()
    assert world.run(20, lambda: world["a"].delivered() == 5)


def test_a_gap_is_asked_for_at_once(net: Any) -> None:
    world = formed(net, "a", "b")
    first = True

    def lose(source: Any, target: Any) -> bool:
        nonlocal first
        lost, first = first and source.name == "a", False
        return lost

    world.lose = lose
    world.say("a", b"1")
    world.say("a", b"2")
    assert world.run(0.05, lambda: world["b"].arrived() == [b"1", b"2"]), "long before the first retry"


def test_a_newcomer_gets_all_history_within_messages_of_bounded_size(net: Any) -> None:
    world = formed(net, "a", "b", limits=Limits(bulk_bytes=20_000))
    for i in range(40):
        world.say("a", bytes([i]) * 800)
        world.run(0.05)
    world.add("c")
    assert world.run(30, world.same_feeds)
    assert [body[0] for body in world["c"].arrived()] == list(range(40))
    assert all(len(data) <= 20_000 for data in world["c"].bulk)


def test_who_dies_is_waited_for_no_longer(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    world.kill("c")
    world.say("a")
    world.run(1)
    assert world["a"].delivered() == 0
    assert world.run(60, lambda: world["a"].delivered() == 1)
    assert world.state("a", "c") == "dead"
    world.say("a")
    assert world.run(1, lambda: world["a"].delivered() == 2)
    world.start("c")
    assert world.run(10, lambda: len(world["c"].arrived()) == 2)


def test_who_leaves_is_waited_for_no_longer(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    world["c"].slow = True
    world.say("a")
    world.run(0.2)
    world["c"].mesh.leave()
    world.settle(world["c"])
    assert world.run(1, lambda: world["a"].delivered() == 1)


def test_an_acknowledgement_counts_for_its_sender_and_its_entry_only(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    world["b"].slow = world["c"].slow = True
    world.say("a")
    world.run(0.01)
    a = world["a"]
    [reference] = a.mesh._delivery._outbox.open
    for peer, references in (
        (world["c"].id, ((a.id, reference.generation, 0), (a.id, reference.generation, 0))),
        (world["b"].id, ((a.id, reference.generation, 1), (world["b"].id, reference.generation, 0), (b"", -1, -1))),
    ):
        a.mesh._delivery.got(peer, Got(references))
        a.mesh.poll_news()
    assert a.mesh._delivery._outbox.open[reference].waiting == {world["b"].id}


def test_a_restart_keeps_the_feeds_and_begins_a_new_generation(net: Any) -> None:
    world = formed(net, "a", "b")
    world.say("a", b"1")
    world.run(1)
    vector = world["a"].mesh.feeds.vector()
    world.kill("a")
    world.start("a")
    assert world["a"].mesh.feeds.vector() == vector
    world.say("a", b"2")
    assert world.run(2, lambda: world["a"].delivered() == 1)
    assert world["b"].arrived() == [b"1", b"2"]
    assert [(g >> GENERATION_BITS, n) for _, g, n in world["b"].mesh.feeds.vector()] == [(1, 1), (2, 1)]


def test_what_we_said_and_forgot_comes_back_as_history_and_is_never_forked(net: Any) -> None:
    """The state of a was restored from a copy made before it spoke: the same boot number again, in another generation."""
    world = formed(net, "a", "b", "c")
    copy = {key: row for key, row in world["a"].disk.items() if key[0] != "entries"}
    for i in range(3):
        world.say("a", bytes([i]))
    world.run(1)
    world.kill("a")
    world["a"].disk = {**copy, ("meta", ("boot",)): {"key": "boot", "value": (0).to_bytes(8, "big")}}
    world.start("a")
    assert world["a"].boot == 1, "a boot number that others know already"
    assert world.run(10, world.same_feeds)
    assert world["a"].arrived() == [], "nothing follows from it now"
    world.say("a", b"new")
    assert world.run(5, lambda: world["a"].delivered() == 1)
    assert world["b"].arrived()[-1] == b"new"
    generations = sorted((g, n) for node, g, n in world["b"].mesh.feeds.vector() if node == world["a"].id)
    assert [n for _, n in generations] == [3, 1], "the newer one is above the one that was forgotten"
    assert world["a"].number("boot") >= generations[-1][0] >> GENERATION_BITS
    assert not world["b"].mesh.forgers.proofs


def test_a_hole_in_the_store_is_filled_by_peers(net: Any) -> None:
    world = formed(net, "a", "b")
    for i in range(4):
        world.say("a", bytes([i]))
    world.run(1)
    world.kill("b")
    [(_, generation, _)] = world["a"].mesh.feeds.vector()
    del world["b"].disk["entries", (world["a"].id, generation, 1)]
    world["b"].disk["entries", (world["a"].id, generation, 3)]["data"] = b"torn"
    world.start("b")
    assert world["b"].mesh.dropped["hole in the store"] == 1
    assert world.run(10, world.same_feeds)
    assert [row["number"] for row in world["b"].rows("entries")] == [0, 1, 2, 3]


# -- junk ------------------------------------------------------------------------------------------------------------


def test_entries_that_may_not_be_are_counted_and_change_nothing(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    a, b = world["a"].member.identity, world["b"].member.identity
    good = entry(world, b)
    push(world, "a", "c", good)
    assert world["a"].arrived() == [b""]
    bad_bit = bytearray(entry(world, b, 1, hashlib.sha256(good).digest()))
    bad_bit[-1] ^= 1
    other_mesh = seal(b, ENTRY, b"x" * 32, pack([1, 1, hashlib.sha256(good).digest(), 1, "alert", b""]))
    for data, reason in (
        (entry(world, world.keys.foreign.identity), "entry of a stranger"),
        (entry(world, world.keys.revoked.identity), "entry of a stranger"),
        (bytes(bad_bit), "bad signature"),
        (other_mesh, "bad signature"),
        (b"junk", "malformed envelope"),
        (entry(world, b, body=bytes(9000)), "malformed envelope: too long"),
        (seal(b, "alive", world.keys.mesh_id, b""), "not of type entry"),
    ):
        before, feeds, rows = world["a"].mesh.dropped[reason], world["a"].mesh.feeds.all(), dict(world["a"].disk)
        push(world, "a", "c", data)
        assert world["a"].mesh.dropped[reason] == before + 1, reason
        assert world["a"].mesh.feeds.all() == feeds
        assert world["a"].disk == rows
    assert world["a"].arrived() == [b""]
    assert a.id not in {n for n, _, _ in world["a"].mesh.feeds.vector()}


def test_a_bad_entry_costs_only_itself(net: Any) -> None:
    world = formed(net, "a", "b")
    b = world["b"].member.identity
    first = entry(world, b)
    second = entry(world, b, 1, hashlib.sha256(first).digest(), body=b"2")
    push(world, "a", "b", b"junk", first, entry(world, world.keys.foreign.identity), second)
    assert world["a"].arrived() == [b"", b"2"]


def test_a_member_without_the_role_says_nothing(net: Any) -> None:
    world = formed(net, "a", "b")
    member = world["a"].mesh.members[world["b"].id]
    member.certificate = replace(member.certificate, roles=("witness",))
    push(world, "a", "b", entry(world, world["b"].member.identity))
    assert world["a"].arrived() == []
    assert world["a"].mesh.dropped["entry of a stranger"] == 1


def test_who_is_revoked_is_heard_no_more(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    roster = world.keys.roster
    chain = world.keys.sign(
        Roster(3, roster.epoch, roster.roots, 1, roster.voters, roster.issuers, roster.operators, (world["c"].id,), 15_000, 10_000)
    )
    world.say("c", b"before")
    world.run(1)
    world.kill("a")
    world.start("a", chain)
    world.say("c", b"after")
    world.run(5)
    a = world["a"]
    assert world["c"].id not in a.mesh.members
    a.mesh.handle_bulk(world["c"].id, b"\x91\x09", world.instant())
    assert a.mesh.dropped["revoked key"] > 0
    assert a.arrived() == []
    assert [e.body for e in a.mesh.feeds.of(world["c"].id)] == [b"before"], "what it said before stays"


# -- everything at once ----------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("say"), st.sampled_from("abc")),
        st.tuples(st.sampled_from(["slow", "release", "restart", "cut"]), st.sampled_from("abc")),
        st.tuples(st.just("run"), st.sampled_from(["1", "5"])),
        st.tuples(st.just("heal"), st.just("")),
    ),
    max_size=25,
)


@settings(max_examples=30)
@given(STEPS, st.floats(0, 0.3))
def test_after_anything_all_hold_all_that_was_ever_news(net: Any, steps: list[tuple[str, str]], loss: float) -> None:
    """No entry that anybody has read is lost by crash, cut, loss or a slow disk; all agree; each is news once a boot."""
    world, news = net("a", "b", "c"), set()
    for i, (word, what) in enumerate(steps):
        match word:
            case "say":
                world.say(what, f"{i}".encode())
            case "slow":
                world[what].slow = True
            case "release":
                world.release(what)
            case "restart":
                news |= {item.entry.hash for item in world[what].news if isinstance(item, EntryArrived)}
                world.kill(what)
                world.start(what)
            case "cut":
                world.cut(what)
            case "heal":
                world.lose = lambda source, target: world.rng.random() < loss
            case "run":
                world.run(float(what))
    for name in "abc":
        world.release(name)
    world.heal()
    assert world.run(90, lambda: world.all_know_all() and world.same_feeds())
    world.run(3)
    for host in world.hosts.values():
        arrived = [item.entry.hash for item in host.news if isinstance(item, EntryArrived)]
        assert len(arrived) == len(set(arrived))
        news |= set(arrived)
        delivered = [item.reference for item in host.news if isinstance(item, EntryDelivered)]
        own = [e for e in host.mesh.feeds.all() if e.node == host.id and e.reference.generation >> GENERATION_BITS == host.boot]
        assert sorted(delivered) == [e.reference for e in own], "each once"
        assert len(host.rows("entries")) == len(host.mesh.feeds.all())
    for host in world.hosts.values():
        assert {e.hash for e in host.mesh.feeds.all()} == news
