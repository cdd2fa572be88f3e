"""Floods: a stranger's and a member's. Honest probes are still answered (at least 99 %), and memory stays bounded."""

import dataclasses
import gc
import random
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.mesh.hello import PREFIX, Hello
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import LAN
from cloudisense.mesh.member import Alive, Left, Suspect
from cloudisense.mesh.wire import Ack, Claims, Got, Message, Nack, Ping, PingRequest, Push, PushPull, Relay, Rosters

Arena = Any
ROUNDS = 50
BYTES_KEPT = 3_000_000


def entry(four: Arena, author: Identity, generation: int, number: int, previous: bytes = bytes(32), size: int = 10) -> bytes:
    return seal(author, "entry", four.keys.mesh_id, pack([generation, number, previous, 1, "alert", bytes(size)]))


def signed(four: Arena, kind: str, body: object, author: Identity | None = None) -> bytes:
    return seal(author or four["mallory"].member.identity, kind, four.keys.mesh_id, pack(body))


def strangers(four: Arena) -> Iterator[Identity]:
    i = 0
    while True:
        i += 1
        yield Identity(i.to_bytes(32, "big"))


def junk_claims(four: Arena, i: int) -> list[Message]:
    """Well-formed accusations with bad signatures, as many as fit."""
    good = signed(four, "suspect", Suspect(four["bert"].id, 1, four["carl"].id, "silent"))
    return [Claims(tuple((good[:-8] + (i * 40 + n).to_bytes(8, "big"), b"") for n in range(40)))]


def true_claims(four: Arena, i: int) -> list[Message]:
    """Alive claims, truly signed, each one incarnation more; and accusations that change their evidence each time."""
    host, port = four["mallory"].address
    key = four["mallory"].mesh._sessions.key.public
    alive = signed(four, "alive", Alive(four["mallory"].id, "mallory", host, port, 10 + i, 1, key))
    bert = four["anna"].mesh.members[four["bert"].id]
    suspect = signed(four, "suspect", Suspect(bert.node, bert.alive.incarnation, four["mallory"].id, ("silent", "mute")[i % 2]))
    return [Claims(((alive, four["mallory"].member.certificate), (suspect, b"")))]


def counter_jumps(four: Arena, i: int) -> list[Message]:
    """Our counter leaps by 2**50 each time, and stays below its end."""
    pairs = four["mallory"].mesh._sessions._own.pairs
    pair = next(pair for (peer, _), pair in pairs.items() if peer == four["anna"].id)
    pair.counter += 2**50
    return [Ping(i, bytes(8), ())] * 3


def bad_entries(four: Arena, i: int) -> list[Message]:
    good = entry(four, four["bert"].member.identity, 1, i)
    return [Push(tuple(good[:-8] + (i * 10 + n).to_bytes(8, "big") for n in range(5)), True)]


def orphans(four: Arena, i: int) -> list[Message]:
    """Entries far ahead of what is there, in ever new generations, as large as they may be."""
    author = four["mallory"].member.identity
    return [Push((entry(four, author, 1 + i * 3 + n, 1 + n, size=7900),), True) for n in range(3)]


def relays(four: Arena, i: int) -> list[Message]:
    """The same entry, and ever new entries of nobody, for everyone."""
    nobody = Identity(i.to_bytes(32, "big"))
    same, new = entry(four, four["mallory"].member.identity, 1, 3), entry(four, nobody, 1, 0)
    return [
        Relay((same,), bytes(32), b"\xff" * 32),
        Relay((new,), bytes(32), b"\xff" * 32),
        Relay((same, new) * 20, bytes(32), b"\xff" * 32),
    ]


def pulls(four: Arena, i: int) -> list[Message]:
    """ "I know nothing, tell me all", and huge lists of what nobody ever heard of."""
    rng = random.Random(i)
    heads = tuple((rng.randbytes(32), i, False) for _ in range(2000))
    vector = tuple((rng.randbytes(32), n, 2**40) for n in range(2000))
    bombs: list[Message] = [PushPull((), heads, (), 2, True), PushPull((), (), vector, 2, True)]
    return [PushPull((), (), (), 0, True)] * 3 + (bombs if i % 5 == 0 else [])


def answers_to_nothing(four: Arena, i: int) -> list[Message]:
    references = tuple((four["anna"].id, 1, n) for n in range(i * 20, i * 20 + 20))
    return [Got(references), Got(((b"x" * 32, 2**60, 2**60),)), *(Ack(n, bytes(8), ()) for n in range(5)), *(Nack(n) for n in range(5))]


def probe_requests(four: Arena, i: int) -> list[Message]:
    return [PingRequest(i * 20 + n, four["carl"].id) for n in range(20)]


def rosters(four: Arena, i: int) -> list[Message]:
    return [Rosters((*four.keys.chain, *[b"x" * 60] * 900)), Rosters((b"",) * 900)]


def oversize(four: Arena, i: int) -> list[Message]:
    return [
        Claims(((b"c" * 200_000, b""),)),
        Push((b"e" * 200_000,), True),
        Relay((b"e" * 100_000,), b"a" * 50_000, b"b" * 50_000),
        PingRequest(2**63, b"t" * 100_000),
        Ping(1, b"d" * 100_000, ()),
        Claims(((signed(four, "left", Left(four["mallory"].id, 0)), b"k" * 100_000),)),
    ]


MEMBERS_FLOODS: dict[str, Callable[[Any, int], list[Message]]] = {
    "junk claims": junk_claims,
    "true claims": true_claims,
    "mismatching digests": lambda four, i: [Ping(i * 20 + n, bytes(8), ()) for n in range(10)],
    "counter jumps": counter_jumps,
    "bad entries": bad_entries,
    "orphans": orphans,
    "relays": relays,
    "pulls, heads and vectors": pulls,
    "answers to nothing": answers_to_nothing,
    "probe requests": probe_requests,
    "rosters": rosters,
    "oversize": oversize,
}


class Probes:
    """Bert's own pings to anna during the flood."""

    def __init__(self, four: Arena) -> None:
        self.four, self.sent = four, 0

    def one(self) -> None:
        self.sent += 1
        self.four.say("bert", "anna", Ping(10**6 + self.sent, bytes(8), ()))

    def answered(self) -> int:
        """How many acks came: counted where bert decodes them."""
        return self.acks

    def __enter__(self) -> "Probes":
        self.acks = 0
        mesh = self.four["bert"].mesh
        handler = mesh._handlers[Ack]

        def counting(peer: bytes, message: Ack, now: Instant) -> object:
            self.acks += peer == self.four["anna"].id and message.sequence > 10**6
            return handler(peer, message, now)

        mesh._handlers[Ack] = counting
        return self

    def __exit__(self, *_: object) -> None:
        self.four.run(1)


def kept_bytes(run: Callable[[], None]) -> int:
    """What ``run`` leaves behind."""
    gc.collect()
    tracemalloc.start()
    try:
        run()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("flood", MEMBERS_FLOODS)
def test_a_members_flood(arena, flood: str) -> None:
    """Controls: mesh/throttle.py and the bounds of mesh/limits.py; and nobody but the flooder is thought ill of."""
    four = arena("anna", "bert", "carl", "mallory")
    anna = four["anna"]
    before, messages = anna.sent, 0

    def attack() -> None:
        nonlocal messages
        with Probes(four) as probes:
            for i in range(ROUNDS):
                bomb = MEMBERS_FLOODS[flood](four, i)
                messages += len(bomb)
                four.say("mallory", "anna", *bomb)
                anna.arrived.clear()
                for node in four.nodes.values():
                    node.heard.clear()
                if i % 2 == 0:
                    probes.one()
                four.run(0.02)
        assert probes.answered() >= 0.99 * probes.sent

    assert kept_bytes(attack) < BYTES_KEPT
    assert anna.sent - before < 2 * messages + 1000, "no amplification"
    four.run(5)
    for name in ("bert", "carl"):
        assert anna.mesh.members[four[name].id].state == "alive"
        assert four[name].mesh.members[anna.id].state == "alive"


def test_forgers_are_read_no_further(arena) -> None:
    """Control: the ``_forgeries`` bucket. After 50 bad signatures a member's claims are not verified any more for a while."""
    four = arena("anna", "bert", "carl", "mallory")
    for i in range(100):
        four.say("mallory", "anna", *junk_claims(four, i))
    dropped = four["anna"].mesh.dropped
    assert dropped["throttled"] >= 95
    assert dropped["claim in another's name"] + dropped["bad signature"] <= 200
    four.run(60)
    assert four["anna"].mesh._forgeries.has(four["mallory"].id, four.now()), "and is forgiven"


def test_mallory_cannot_use_up_what_bert_may_say(arena) -> None:
    """Forged accusations in bert's name are charged to who brings them, not to him."""
    four = arena("anna", "bert", "carl", "mallory")
    for i in range(200):
        four.say("mallory", "anna", *junk_claims(four, i))
    for author in ("bert", "carl"):
        assert four["anna"].mesh._membership._authors._authors.has(four[author].id, four.now())


def test_an_author_can_only_say_so_much(arena) -> None:
    """Control: the ``_authors`` bucket. Each true claim costs everybody a check and a transmission; it comes back in time."""
    limits = dataclasses.replace(LAN, claims_burst=20, claims_s=1)
    four = arena("anna", "bert", "carl", "mallory", limits=limits)
    for i in range(100):
        four.say("mallory", "anna", *true_claims(four, i))
    known = four["anna"].mesh.members[four["mallory"].id]
    assert known.alive.incarnation < 35
    assert four["anna"].mesh.dropped["claims too often"] > 50
    four.run(3)
    four.say("mallory", "anna", *true_claims(four, 1000))
    assert four["anna"].mesh.members[four["mallory"].id].alive.incarnation == 1010


def test_who_asks_for_everything_again_and_again(arena) -> None:
    """Control: the ``_pulls`` bucket. Each push-pull can draw a quarter of a megabyte."""
    four = arena("anna", "bert", "carl", "mallory")
    four.say("mallory", "anna", *[PushPull((), (), (), 0, True)] * 200)
    assert four["anna"].mesh.dropped["asks too often"] >= 150
    four.run(2)
    four.say("mallory", "anna", PushPull((), (), (), 2, False))
    assert four["anna"].mesh.dropped["asks too often"] <= 200, "and is forgiven"


def test_more_messages_than_anybody_needs(arena) -> None:
    """Control: the ``_messages`` bucket, before anything is decoded; others have their own."""
    four = arena("anna", "bert", "carl", "mallory", limits=dataclasses.replace(LAN, messages_burst=50, messages_s=10))
    four.say("mallory", "anna", *(Nack(i) for i in range(200)))
    dropped = four["anna"].mesh.dropped["too many messages"]
    assert dropped >= 150
    four.say("bert", "anna", Nack(1))
    assert four["anna"].mesh.dropped["too many messages"] == dropped


def test_one_asker_cannot_take_every_relay(arena) -> None:
    """Control: ``relayed_probes_asker``. Carl's request still finds a place beside a thousand of mallory's."""
    four = arena("anna", "bert", "carl", "mallory")
    four.say("mallory", "anna", *(PingRequest(i, four["bert"].id) for i in range(1000)))
    four.say("carl", "anna", PingRequest(7, four["bert"].id))
    relayed = [probe.relayed_for for probe in four["anna"].mesh._detector._prober.open.values() if probe.relayed_for is not None]
    assert (four["carl"].id, 7) in relayed
    assert len(relayed) <= four.limits.relayed_probes_asker + 1


def test_orphans_and_generations_are_bounded(arena) -> None:
    """Controls: ``Feeds.crowded``. Nothing that is not verified makes a feed; what waits is bounded by author."""
    four = arena("anna", "bert", "carl", "mallory")
    for i in range(ROUNDS):
        four.say("mallory", "anna", *orphans(four, i))
        four.say("mallory", "anna", PushPull((), (), tuple((four["bert"].id, n, 9) for n in range(i * 9, i * 9 + 9)), 2, False))
    feeds = four["anna"].mesh.feeds._feeds
    assert sum(len(feed.orphans) for feed in feeds.values()) <= four.limits.orphans_node
    assert len(feeds) <= four.limits.orphans_node
    four["bert"].mesh.append("alert", b"heard", four.now())
    four.settle(four["bert"])
    four.run(1)
    assert [e.body for e in four["anna"].arrived] == [b"heard"], "others still get through"


def test_a_relay_passes_on_once_and_for_the_author_only(arena) -> None:
    """Control: ``Delivery.relay``."""
    four = arena("anna", "bert", "carl", "mallory")
    own = entry(four, four["mallory"].member.identity, 1, 0)
    before = four["anna"].sent
    for _ in range(50):
        four.say("mallory", "anna", Relay((own,), bytes(32), b"\xff" * 32))
    assert four["anna"].sent - before <= 60  # two pushes, and an answer each time
    before = four["anna"].sent
    for i in range(50):
        berts = entry(four, four["bert"].member.identity, 1, i)
        four.say("mallory", "anna", Relay((berts,), bytes(32), b"\xff" * 32))
        four.say("mallory", "anna", Relay((entry(four, Identity(bytes([i]) * 32), 1, 0),), bytes(32), b"\xff" * 32))
    pushed = [data for name in ("carl",) for data, source in four[name].heard if source == four["anna"].address]
    four.run(0.01)
    assert len([1 for data, source in four["carl"].heard if source == four["anna"].address]) - len(pushed) <= 60


def test_news_is_not_used_up_by_who_pings_without_end(arena) -> None:
    """Control: the ``ride`` of ``Detector.ping``."""
    four = arena("anna", "bert", "carl", "mallory")
    membership = four["anna"].mesh._membership
    membership._piggyback.add(b"s" * 32, b"a" * 32, (b"news", b""))
    for i in range(100):
        four.say("mallory", "anna", Ping(i, bytes(8), ()))
    assert len(membership._piggyback) >= 1


def test_strangers_hellos(arena) -> None:
    """Controls: ``HelloLimiter``, and the token before the signature. No state, no answer longer than three times the question."""
    four = arena("anna", "bert", "carl", "mallory")
    anna = four["anna"]
    before = four.snapshot("anna")
    rng = random.Random(1)
    verified: list[bytes] = []
    from cloudisense.mesh import hello as module

    true_open = module.open_envelope

    def counting(*args: Any, **keywords: Any) -> Any:
        verified.append(args[0])
        return true_open(*args, **keywords)

    module.open_envelope = counting

    def attack() -> None:
        with Probes(four) as probes:
            for i, stranger in zip(range(1000), strangers(four), strict=False):
                claim = signed(four, "alive", Alive(stranger.id, "x", "10.1.1.1", 9, 1, 1, stranger.id), stranger)
                echo = rng.randbytes(16) if i % 2 else b""
                hello = PREFIX + signed(four, "hello", Hello(claim, b"c" * 200, anna.id, rng.randbytes(16), echo), stranger)
                source = (f"10.{rng.randrange(2, 250)}.{rng.randrange(250)}.{rng.randrange(250)}", 9)
                sent = anna.sent
                anna.mesh.handle_datagram(hello, source, four.now())
                four.settle(anna)
                assert anna.sent <= sent + 1
                if i % 20 == 0:
                    probes.one()
                    four.run(0.02)
        assert probes.answered() >= 0.99 * probes.sent

    try:
        assert kept_bytes(attack) < BYTES_KEPT
    finally:
        module.open_envelope = true_open
    assert verified == [], "no signature is checked for who has no token"
    assert anna.mesh.dropped["hello throttled"] > 300
    assert len(anna.mesh.members) == 3
    assert four.snapshot("anna")["peers"] == before["peers"]


def test_memory_of_timers(arena) -> None:
    """Control: ``Timers.set`` throws stale items away."""
    from cloudisense.mesh.timers import Timers

    timers = Timers()
    for i in range(100_000):
        timers.set("same", i)
    assert len(timers._heap) <= 100
