"""First contact: nothing is believed, and little is sent, before an address has proved itself."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.certificate import LABELS_CHARS, MAX_LABELS, ROLES, Certificate, issue
from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.keys.session import OVERHEAD_BYTES, is_sealed
from cloudisense.keys.testing import WALL_MS, issue_for_tests
from cloudisense.mesh.effects import Send
from cloudisense.mesh.hello import AMPLIFICATION, PREFIX, Greeter, Hello, HelloLimiter
from cloudisense.mesh.instant import NS_PER_S, Instant
from cloudisense.mesh.limits import LAN, Limits
from cloudisense.mesh.member import Alive
from cloudisense.net.udp import MAX_DATAGRAM

PER_SOURCE = 20
FEW = Limits(hellos_per_source_s=PER_SOURCE, hellos_s=200)
STRANGE = ("192.0.2.9", 999)


def sent(net: Any, name: str) -> list[Send]:
    """What ``name`` wants to send now, undelivered."""
    return [effect for effect in net[name].mesh.poll_effects() if isinstance(effect, Send)]


def greeter(net: Any, name: str, secret: bytes = b"s" * 32) -> Greeter:
    return Greeter(net[name].member.identity, net.keys.mesh_id, secret, net.limits)


def own(net: Any, name: str) -> tuple[bytes, bytes]:
    membership = net[name].mesh._membership
    return membership.claim, membership._context.certificate


def three_ways(net: Any) -> tuple[Any, list[bytes]]:
    """``b`` and ``a`` meet by hand; the three datagrams of it."""
    world = net("a", "b", up=False)
    world["a"].address, world["b"].address = ("10.0.0.1", 7963), ("10.0.0.2", 7963)
    for name in "ab":
        world.start(name)
        world[name].mesh.poll_effects()
    a, b, now = world["a"], world["b"], world.instant()
    b.mesh._membership.greet(a.address)
    first = sent(world, "b")[0].data
    a.mesh.handle_datagram(first, b.address, now)
    second = sent(world, "a")[0].data
    assert not a.mesh.members, "a claim that was not proved from its address is not believed"
    b.mesh.handle_datagram(second, a.address, now)
    third, *rest = (effect.data for effect in sent(world, "b"))
    assert all(is_sealed(data) for data in rest), "after it the two talk in private"
    assert a.id in b.mesh.members
    a.mesh.handle_datagram(third, b.address, now)
    assert b.id in a.mesh.members
    return world, [first, second, third]


def test_three_datagrams_and_both_know_each_other(net: Any) -> None:
    _, datagrams = three_ways(net)
    assert [data[:2] for data in datagrams] == [PREFIX] * 3
    assert not any(is_sealed(data) for data in datagrams)
    for before, after in pairwise(datagrams):
        assert len(after) <= AMPLIFICATION * len(before)
    assert all(len(data) <= 1232 for data in datagrams)


def test_replayed_hellos_change_nothing_from_whatever_address(net: Any) -> None:
    world, (first, second, third) = three_ways(net)
    a, b = world["a"], world["b"]
    before = (a.mesh.members[b.id].claim, a.mesh.members[b.id].address, set(a.mesh.members))
    for source in (b.address, STRANGE):
        for data in (first, second, third):
            a.mesh.handle_datagram(data, source, world.instant())
    assert (a.mesh.members[b.id].claim, a.mesh.members[b.id].address, set(a.mesh.members)) == before
    assert not any(effect.data[:2] != PREFIX and effect.address == STRANGE for effect in sent(world, "a")), "only hellos go to strangers"
    fresh = net("a", "c", up=False)
    fresh.now_ns += 1  # another boot, other randomness
    fresh.start("a")
    fresh["a"].mesh.poll_effects()
    for data in (second, third):
        fresh["a"].mesh.handle_datagram(data, b.address, fresh.instant())
    assert not fresh["a"].mesh.members, "the echo of an earlier boot's token proves nothing"
    assert fresh["a"].mesh.dropped["hello without our token"] == 2


def test_the_echo_of_a_token_for_another_address_proves_nothing(net: Any) -> None:
    world = net("a", "b")
    a, b = world["a"], world["b"]
    a.mesh.poll_effects()
    token = a.mesh._greeter.token(b.address)
    for source, to, echo in (
        (STRANGE, a.id, token),
        ((b.address[0], 1), a.id, token),
        (b.address, b.id, token),
        (b.address, b"", token),
        (b.address, a.id, token[:-1]),
        (b.address, a.id, bytes(16)),
    ):
        hello = greeter(world, "b").hello(*own(world, "b"), a.address, to, echo, ask=True)
        world.now_ns += NS_PER_S
        a.mesh.handle_datagram(hello, source, world.instant())
    assert a.mesh.dropped["hello without our token"] == 6
    assert not a.mesh.members
    assert sent(world, "a") == []


def test_a_forged_hello_and_a_strangers_claim_are_refused(net: Any) -> None:
    world = net("a", "b", "c")
    a = world["a"]
    a.mesh.poll_effects()
    token = a.mesh._greeter.token(STRANGE)
    thief = greeter(world, "c").hello(*own(world, "b"), a.address, a.id, token, ask=True)
    forged = bytearray(greeter(world, "b").hello(*own(world, "b"), a.address, a.id, token, ask=True))
    forged[-1] ^= 1
    foreign = world.keys.foreign
    stranger = Greeter(foreign.identity, world.keys.mesh_id, bytes(32), world.limits)
    alive = seal(foreign.identity, "alive", world.keys.mesh_id, pack([foreign.identity.id, "foreign", "10.0.0.9", 1, 1, 1, b"k" * 32]))
    outside = stranger.hello(alive, foreign.certificate, a.address, a.id, token, ask=True)
    for data, reason in ((thief, "hello with a stranger's claim"), (bytes(forged), "bad signature"), (outside, "bad signature")):
        before = a.mesh.dropped[reason]
        a.mesh.handle_datagram(data, STRANGE, world.instant())
        assert a.mesh.dropped[reason] == before + 1
    assert not a.mesh.members
    assert sent(world, "a") == []


def test_our_own_hello_coming_back_is_nobody(net: Any) -> None:
    world = net("a", "b")
    a = world["a"]
    a.mesh.poll_effects()
    mirror = greeter(world, "a").hello(*own(world, "a"), STRANGE, a.id, a.mesh._greeter.token(STRANGE), ask=True)
    a.mesh.handle_datagram(mirror, STRANGE, world.instant())
    assert a.mesh.dropped["hello of a stranger"] == 1
    assert not a.mesh.members
    assert a.id not in a.mesh.members


@pytest.mark.parametrize("size", [1, 100, 200, 2000])
def test_an_answer_is_never_more_than_three_times_what_drew_it(net: Any, size: int) -> None:
    world = net("a")
    a = world["a"]
    a.mesh.poll_effects()
    body = pack(Hello(bytes(size // 2), bytes(size // 2), b"", b"t" * 16, b""))
    data = PREFIX + pack(["hello", body, bytes(32), bytes(64)])
    a.mesh.handle_datagram(data, STRANGE, world.instant())
    answer = sum(len(effect.data) for effect in sent(world, "a"))
    assert answer <= 3 * len(data)
    assert (answer == 0) == (a.mesh.dropped["too short for an answer"] == 1)
    assert answer or size < 2000, "and who asks properly is answered"


@pytest.mark.parametrize("size", [0, 100, 1100])
def test_a_datagram_that_we_cannot_open_draws_no_more_either_unless_a_member_is_there(net: Any, size: int) -> None:
    world = net("a", "b")
    world.run(2, world.all_know_all)
    a, b = world["a"], world["b"]
    a.mesh.poll_effects()
    sealed = bytes([1, 1]) + b"receiver" + b"sender.." + bytes(8 + 16 + size)
    assert len(sealed) == OVERHEAD_BYTES + size
    a.mesh.handle_datagram(sealed, STRANGE, world.instant())
    assert sum(len(effect.data) for effect in sent(world, "a")) <= 3 * len(sealed)
    a.mesh.handle_datagram(sealed, b.address, world.instant())
    assert [effect.address for effect in sent(world, "a")] == [b.address], "it most likely restarted"


def test_a_source_is_answered_so_often_a_second_and_no_more(net: Any) -> None:
    world = net("a", "b", limits=FEW)
    a = world["a"]
    a.mesh.poll_effects()
    for _ in range(PER_SOURCE + 3):
        a.mesh.handle_datagram(greeter(world, "b").hello(*own(world, "b"), a.address, b"", b"", ask=True), STRANGE, world.instant())
        a.mesh.handle_datagram(bytes([1, 1]) + bytes(1000), ("192.0.2.10", 1), world.instant())
    assert [effect.address[0] for effect in sent(world, "a")].count(STRANGE[0]) == 20
    assert a.mesh.dropped["hello throttled"] == 3
    assert a.mesh.dropped["for another key"] == 23
    a.mesh.poll_effects()
    world.now_ns += NS_PER_S
    for port in range(PER_SOURCE + 3):
        for _ in range(3):  # one answer to a volley
            a.mesh.handle_datagram(bytes([1, 1]) + bytes(1000), ("192.0.2.10", 1 + port), world.instant())
    assert len(sent(world, "a")) == 20


@given(st.binary(max_size=300))
def test_junk_after_the_prefix_is_dropped(net: Any, junk: bytes) -> None:
    world = JUNK.setdefault(0, net("a"))
    world["a"].mesh.poll_effects()
    dropped = world["a"].mesh.dropped.total()
    world.now_ns += NS_PER_S
    world["a"].mesh.handle_datagram(PREFIX + junk, STRANGE, world.instant())
    assert world["a"].mesh.dropped.total() == dropped + 1
    assert sent(world, "a") == []
    assert not world["a"].mesh.members


JUNK: dict[int, Any] = {}


def at(seconds: float) -> Instant:
    return Instant(round(seconds * NS_PER_S), 0)


def test_the_limiter_lets_a_burst_through_then_a_steady_trickle() -> None:
    limiter = HelloLimiter(FEW)
    assert [limiter.allow("h", at(10)) for _ in range(PER_SOURCE + 2)] == [True] * PER_SOURCE + [False] * 2
    assert [limiter.allow("h", at(10.06)) for _ in range(2)] == [True, False]
    assert limiter.allow("other", at(10.06))


def test_all_sources_together_have_a_limit() -> None:
    limiter = HelloLimiter(Limits())
    assert sum(limiter.allow(f"10.0.{i // 256}.{i % 256}", at(10)) for i in range(300)) == Limits().hellos_s


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.5)), max_size=300))
def test_the_limiter_is_bounded_in_memory_and_in_what_it_lets_through(arrivals: list[tuple[int, float]]) -> None:
    limits = Limits(sources=8, hellos_s=20)
    limiter, now_s, passed = HelloLimiter(limits), 100.0, 0
    for source, wait_s in arrivals:
        now_s += wait_s
        passed += limiter.allow(f"10.0.0.{source}", at(now_s))
        assert len(limiter._sources) <= limits.sources
    assert passed <= limits.hellos_s * (now_s - 100.0 + 1) + 1


def test_the_longest_hello_fits_a_datagram() -> None:
    """Names, address and labels as long as they may be; a certificate with more labels does not exist."""
    mesh, node = issue_for_tests(1), Identity(b"n" * 32)
    labels = tuple((f"{number:02}" + "k" * 20, "v" * 18) for number in range(MAX_LABELS))
    with pytest.raises(ValueError, match=f"at most {LABELS_CHARS} characters"):
        Certificate(node.id, "n", ("member",), (*labels[1:], ("k" * 23, "v" * 18)), 1, 2, mesh.issuer.id)
    certificate = issue(mesh.issuer, mesh.mesh_id, Certificate(node.id, "n" * 63, ROLES, labels, WALL_MS, 2**53, mesh.issuer.id))
    alive = Alive(node.id, "n" * 63, ":".join(["ffff"] * 8), 65535, 2**63 - 1, 2**63 - 1, bytes(32))
    claim = seal(node, "alive", mesh.mesh_id, pack(alive))
    hello = Greeter(node, mesh.mesh_id, bytes(32), LAN).hello(claim, certificate, STRANGE, node.id, bytes(16), ask=True)
    assert len(hello) <= MAX_DATAGRAM
