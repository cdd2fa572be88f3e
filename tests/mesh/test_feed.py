"""Feeds: what is accepted is always one chain from its beginning, whatever comes in whichever order."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.mesh.feed import ENTRY, GENESIS, Entry, Feeds, Reference, load_entry, parse_entry
from cloudisense.mesh.limits import Limits

MESH, LIMITS = b"m" * 32, Limits(orphans_per_feed=4, entries=40, feeds=6)
AUTHORS = [Identity(bytes([i]) * 32) for i in range(1, 3)]


def entry_of(author: Identity, generation: int, number: int, previous: bytes, body: bytes = b"") -> bytes:
    return seal(author, ENTRY, MESH, pack([generation, number, previous, 1, "alert", body]))


def chain(author: Identity, length: int, generation: int = 1, body: bytes = b"") -> list[bytes]:
    made, previous = [], GENESIS
    for number in range(length):
        made.append(entry_of(author, generation, number, previous, body))
        previous = hashlib.sha256(made[-1]).digest()
    return made


def take(feeds: Feeds, data: bytes) -> list[Entry]:
    return feeds.accept(*parse_entry(data, MESH, LIMITS.entry_bytes))


CHAIN_LENGTH = 9
# Per author: the true chain, a fork of it from number 3 on, and another generation.
TRUE = {a.id: chain(a, CHAIN_LENGTH) for a in AUTHORS}
FORK: dict[bytes, list[bytes]] = {}
for a in AUTHORS:
    head = hashlib.sha256(TRUE[a.id][2]).digest()
    FORK[a.id] = []
    for n in range(3, 6):
        FORK[a.id].append(entry_of(a, 1, n, head, b"fork"))
        head = hashlib.sha256(FORK[a.id][-1]).digest()
OTHER = {a.id: chain(a, 3, generation=2) for a in AUTHORS}
POOL = [data for a in AUTHORS for data in (*TRUE[a.id], *FORK[a.id], *OTHER[a.id])]


class Arrivals(RuleBasedStateMachine):
    """Entries of two authors arrive in any order, doubled, with holes and forks; writes become durable in order."""

    @initialize()
    def start(self) -> None:
        self.feeds = Feeds(MESH, LIMITS)
        self.writes: list[list[Entry]] = []
        self.seen: dict[Reference, bytes] = {}

    @rule(data=st.sampled_from(POOL))
    def arrives(self, data: bytes) -> None:
        before = self.feeds.all()
        try:
            accepted = take(self.feeds, data)
        except RemoteProtocolError as error:
            assert error.reason in ("forked feed", "broken chain", "feeds are full")
            assert self.feeds.all() == before
            return
        assert sorted(set(self.feeds.all()) - set(before), key=lambda e: e.reference) == accepted
        if accepted:
            self.writes.append(accepted)

    @rule()
    def disk_catches_up(self) -> None:
        if self.writes:
            self.feeds.made_durable(self.writes.pop(0))

    @invariant()
    def every_feed_is_a_chain_and_nothing_in_it_ever_changes(self) -> None:
        by_feed: dict[tuple[bytes, int], list[Entry]] = {}
        for entry in self.feeds.all():
            by_feed.setdefault((entry.node, entry.reference.generation), []).append(entry)
            assert self.seen.setdefault(entry.reference, entry.hash) == entry.hash
        for entries in by_feed.values():
            assert [e.reference.number for e in entries] == list(range(len(entries)))
            bodies = [load_entry(e.data, LIMITS.entry_bytes) for e in entries]
            assert bodies[0][1] == GENESIS
            assert all(bodies[i + 1][1] == bodies[i][0].hash for i in range(len(bodies) - 1))

    @invariant()
    def peers_are_told_of_what_is_on_disk(self) -> None:
        pending = {e.reference for batch in self.writes for e in batch}
        told = {(n, g): count for n, g, count in self.feeds.vector()}
        for entry in self.feeds.all():
            durable = entry.reference not in pending
            key = (entry.node, entry.reference.generation)
            assert self.feeds.is_durable(entry.reference) == durable
            assert (entry.reference.number < told.get(key, 0)) == durable
        assert {e.reference for e in self.feeds.missing_at(())} == {e.reference for e in self.feeds.all()} - pending

    @invariant()
    def room_is_counted(self) -> None:
        orphans = sum(len(feed.orphans) for feed in self.feeds._feeds.values())
        assert self.feeds.count == len(self.feeds.all()) + orphans <= LIMITS.entries
        assert all(len(feed.orphans) <= LIMITS.orphans_per_feed for feed in self.feeds._feeds.values())


TestArrivals = Arrivals.TestCase
TestArrivals.settings = settings(max_examples=60, stateful_step_count=40)


@given(st.lists(st.integers(0, 2 * CHAIN_LENGTH - 1), max_size=30), st.lists(st.integers(0, 2 * CHAIN_LENGTH - 1), max_size=30))
def test_two_holders_converge_by_vector_alone(ours: list[int], theirs: list[int]) -> None:
    both = TRUE[AUTHORS[0].id] + TRUE[AUTHORS[1].id]
    feeds = [Feeds(MESH, LIMITS), Feeds(MESH, LIMITS)]
    for holder, arrivals in zip(feeds, (ours, theirs), strict=True):
        for i in arrivals:
            holder.made_durable(take(holder, both[i]))
    everything = {e.hash for holder in feeds for e in holder.all()}
    for here, there in ((0, 1), (1, 0)) * CHAIN_LENGTH:  # what comes may complete what waited, which the other then lacks
        for entry in feeds[here].missing_at(feeds[there].vector()):
            feeds[there].made_durable(take(feeds[there], entry.data))
    assert feeds[0].vector() == feeds[1].vector()
    assert everything <= {e.hash for e in feeds[0].all()}
    assert feeds[0].missing_at(feeds[1].vector()) == feeds[1].missing_at(feeds[0].vector()) == []


def test_a_vector_of_nonsense_lacks_everything_or_nothing() -> None:
    node = AUTHORS[0].id
    feeds = Feeds(MESH, LIMITS)
    for data in TRUE[node][:3]:
        feeds.load(data)
    for vector, missing in ((((node, 1, -1),), 3), (((node, 1, 2**64 - 1),), 0), (((node, -1, 3), (b"", 0, 0)), 3)):
        assert len(feeds.missing_at(vector)) == missing


def test_any_order_within_the_window_makes_the_same_feed() -> None:
    feeds = Feeds(MESH, LIMITS)
    data = TRUE[AUTHORS[0].id]
    assert [len(take(feeds, data[i])) for i in (3, 1, 2, 1, 0, 0)] == [0, 0, 0, 0, 4, 0]


def test_an_orphan_of_another_chain_takes_nothing_with_it() -> None:
    """The true entry that comes after it is accepted, kept, and reported: it has to be written and acknowledged."""
    author = AUTHORS[0]
    feeds = Feeds(MESH, LIMITS)
    assert take(feeds, entry_of(author, 1, 1, b"x" * 32)) == []
    assert [e.reference.number for e in take(feeds, TRUE[author.id][0])] == [0]
    assert feeds.count == 1
    assert len(take(feeds, TRUE[author.id][1])) == 1


def test_forks_and_broken_chains_are_refused_and_change_nothing() -> None:
    author = AUTHORS[0]
    feeds = Feeds(MESH, LIMITS)
    for data in TRUE[author.id][:3]:
        take(feeds, data)
    for bad, reason in (
        (entry_of(author, 1, 1, GENESIS, b"other"), "forked feed"),
        (entry_of(author, 1, 3, b"x" * 32), "broken chain"),
        (entry_of(author, 9, 0, b"x" * 32), "broken chain"),
    ):
        before = (feeds.all(), feeds.count, len(feeds._feeds))
        with pytest.raises(RemoteProtocolError, match=reason):
            take(feeds, bad)
        assert (feeds.all(), feeds.count, len(feeds._feeds)) == before


def test_too_far_ahead_is_not_kept() -> None:
    feeds = Feeds(MESH, LIMITS)
    assert take(feeds, TRUE[AUTHORS[0].id][LIMITS.orphans_per_feed]) == []
    assert feeds.count == 0


def test_a_full_house_still_knows_what_it_holds() -> None:
    author = AUTHORS[0]
    feeds = Feeds(MESH, Limits(entries=3, feeds=1))
    for data in TRUE[author.id][:2]:
        assert len(take(feeds, data)) == 1
    assert take(feeds, TRUE[author.id][3]) == []
    with pytest.raises(RemoteProtocolError, match="feeds are full"):
        take(feeds, TRUE[author.id][4])
    assert take(feeds, TRUE[author.id][0]) == [], "a double is no news, and no refusal"
    with pytest.raises(RemoteProtocolError, match="forked feed"):
        take(feeds, entry_of(author, 1, 0, GENESIS, b"other"))
    feeds = Feeds(MESH, Limits(feeds=1))
    assert len(take(feeds, TRUE[author.id][0])) == 1
    with pytest.raises(RemoteProtocolError, match="feeds are full"):
        take(feeds, OTHER[author.id][0])
    assert len(take(feeds, TRUE[author.id][1])) == 1, "the feeds that are there go on"


def test_the_store_is_loaded_as_it_was_and_a_hole_is_left_to_peers() -> None:
    author = AUTHORS[0]
    feeds = Feeds(MESH, LIMITS)
    for data in TRUE[author.id][:2]:
        feeds.load(data)
    assert feeds.vector() == ((author.id, 1, 2),)
    for bad in (TRUE[author.id][3], TRUE[author.id][1], FORK[author.id][0][:-1], b""):
        with pytest.raises(RemoteProtocolError):
            feeds.load(bad)
    with pytest.raises(RemoteProtocolError, match="hole"):
        feeds.load(entry_of(author, 1, 2, b"x" * 32))
    assert feeds.count == len(feeds.all()) == 2
    assert len(take(feeds, TRUE[author.id][2])) == 1


def test_our_own_feed_is_a_chain_that_others_accept() -> None:
    ours, theirs = Feeds(MESH, LIMITS), Feeds(MESH, LIMITS)
    made = [ours.append(AUTHORS[0], 3, 1000 + i, "alert", bytes([i])) for i in range(3)]
    assert ours.vector() == (), "nobody hears of it before it is durable"
    for entry in made:
        assert take(theirs, entry.data) == [entry]
    assert ours.get(Reference(AUTHORS[0].id, 3, 1)) == made[1]
    assert [ours.get(Reference(AUTHORS[0].id, g, n)) for g, n in ((3, 3), (3, -1), (4, 0))] == [None] * 3


def test_an_entry_too_large_is_not_appended() -> None:
    feeds = Feeds(MESH, LIMITS)
    with pytest.raises(ValueError, match="limit 8192"):
        feeds.append(AUTHORS[0], 1, 0, "alert", bytes(8192))
    assert feeds.all() == []
    assert feeds.append(AUTHORS[0], 1, 0, "alert", b"").reference.number == 0


@given(st.binary(max_size=150))
def test_parsing_refuses_junk(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_entry(data, MESH, LIMITS.entry_bytes)


@pytest.mark.parametrize(
    "body",
    [
        [1, 0, b"short", 1, "alert", b""],
        [-1, 0, GENESIS, 1, "alert", b""],
        [1, -1, GENESIS, 1, "alert", b""],
        [2**63, 0, GENESIS, 1, "alert", b""],
        [1, 2**53, GENESIS, 1, "alert", b""],
        [1, 0, GENESIS, 2**64 - 1, "alert", b""],
        [1, 0, GENESIS, -1, "alert", b""],
        [1, 0, GENESIS, 1, "k" * 33, b""],
        [1, 0, GENESIS, 1, "alert"],
        [1, 0, GENESIS, 1.5, "alert", b""],
    ],
)
def test_parsing_refuses_a_signed_body_in_bad_form(body: list) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed"):
        parse_entry(seal(AUTHORS[0], ENTRY, MESH, pack(body)), MESH, LIMITS.entry_bytes)


@given(st.integers(0, 8 * len(TRUE[AUTHORS[0].id][0]) - 1))
def test_no_bit_of_an_entry_can_be_changed(bit: int) -> None:
    data = bytearray(TRUE[AUTHORS[0].id][0])
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RemoteProtocolError):
        parse_entry(bytes(data), MESH, LIMITS.entry_bytes)


def test_an_entry_of_another_mesh_or_of_another_type_is_none() -> None:
    content = pack([1, 0, GENESIS, 1, "alert", b""])
    for type_, mesh in ((ENTRY, b"x" * 32), ("alive", MESH)):
        with pytest.raises(RemoteProtocolError):
            parse_entry(seal(AUTHORS[0], type_, mesh, content), MESH, LIMITS.entry_bytes)


def test_the_sorted_order_of_references_is_that_of_feeds() -> None:
    a, b = sorted(x.id for x in AUTHORS)
    ordered = [Reference(a, 1, 0), Reference(a, 1, 1), Reference(a, 2, 0), Reference(b, 0, 0)]
    assert all(x < y for x, y in pairwise(ordered))
