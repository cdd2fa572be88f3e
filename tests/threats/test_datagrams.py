"""Forged, bit-flipped, truncated and replayed datagrams change nothing: the state before and after is the same, whole."""

import random
from typing import Any

import pytest

from cloudisense.keys.session import SessionKey, Sessions
from cloudisense.mesh.hello import PREFIX
from cloudisense.mesh.wire import Ping, encode

Arena = Any


@pytest.fixture
def three(arena) -> Arena:
    return arena("anna", "bert", "mallory")


def sealed_of(three: Arena, to: str, source: str) -> list[bytes]:
    return [data for data, address in three[to].heard if address == three[source].address and data[:2] != PREFIX]


def hellos_of(three: Arena, to: str, source: str) -> list[bytes]:
    return [data for data, address in three[to].heard if address == three[source].address and data[:2] == PREFIX]


def unchanged(three: Arena, datagrams: list[bytes], source: tuple[str, int] | None = None) -> None:
    """Each of them, at anna's, from bert's address."""
    before = three.snapshot("anna")
    counted = three["anna"].mesh.dropped.total()
    for data in datagrams:
        three.datagram(three["anna"], data, source or three["bert"].address)
    assert three.snapshot("anna") == before
    assert three["anna"].mesh.dropped.total() >= counted + len(datagrams), "each is counted"


def fresh(three: Arena) -> bytes:
    """A sealed ping by bert that has not arrived yet."""
    return three["bert"].mesh._sessions.seal(three["anna"].id, encode(Ping(999, bytes(8), ())))


def test_a_fresh_one_would_have_changed_something(three: Arena) -> None:
    before = three.snapshot("anna")
    three.datagram(three["anna"], fresh(three), three["bert"].address)
    assert three.snapshot("anna") != before


def test_every_flipped_bit(three: Arena) -> None:
    """Control: the AEAD with the whole header as associated data (keys/session.py), and the window moves after it."""
    data = fresh(three)
    flipped = [bytes(b ^ (1 << bit % 8) if i == bit // 8 else b for i, b in enumerate(data)) for bit in range(len(data) * 8)]
    unchanged(three, flipped)
    three.datagram(three["anna"], data, three["bert"].address)  # and the true one still gets through
    assert three.snapshot("anna")["windows"]


def test_every_truncation_and_extension(three: Arena) -> None:
    data = fresh(three)
    unchanged(three, [data[:n] for n in range(len(data))] + [data + bytes(n) for n in (1, 16, 1500)])


def test_replayed_in_the_same_session(three: Arena) -> None:
    """Control: the replay window (keys/window.py)."""
    three.run(5)
    unchanged(three, sealed_of(three, "anna", "bert"))


def test_a_counter_that_jumped_ahead_does_not_let_old_ones_in(three: Arena) -> None:
    pair = next(pair for (peer, _), pair in three["bert"].mesh._sessions._own.pairs.items() if peer == three["anna"].id)
    old = sealed_of(three, "anna", "bert")
    pair.counter = 2**64 - 10
    three.datagram(three["anna"], fresh(three), three["bert"].address)
    unchanged(three, old)


def test_replayed_after_a_reboot(three: Arena) -> None:
    """Control: a new session key each boot; what was sealed for the old one opens no more."""
    old = sealed_of(three, "anna", "bert")
    three.start("anna")
    three.run(3)
    before = three.snapshot("anna")
    for data in old:
        three.datagram(three["anna"], data, three["bert"].address)
    assert three.snapshot("anna") == before


def test_replayed_after_the_sender_rebooted(three: Arena) -> None:
    old = sealed_of(three, "anna", "bert")
    three.start("bert")
    three.run(3)
    unchanged(three, old)


def test_replayed_from_another_mesh(three: Arena, arena) -> None:
    """Control: the mesh id is in every key and under every signature."""
    other = arena("anna", "bert", seed=2)
    unchanged(three, sealed_of(other, "anna", "bert"))
    before = three.snapshot("anna")
    for data in hellos_of(other, "anna", "bert"):
        three.datagram(three["anna"], data, three["bert"].address)
    assert three.snapshot("anna") == before


def test_forged_by_one_who_knows_everything_public(three: Arena) -> None:
    """A stranger with bert's public key and id, but not his secret."""
    anna, bert = three["anna"], three["bert"]
    stranger = Sessions(bert.id, three.keys.mesh_id, SessionKey(b"s" * 32))
    stranger.learn(anna.id, anna.mesh._sessions.key.public, three.now())
    forged = bytearray(stranger.seal(anna.id, encode(Ping(1, bytes(8), ()))))
    forged[10:18] = bert.mesh._sessions.key.id
    unchanged(three, [bytes(forged)])


def test_forged_by_another_member_in_his_name(three: Arena) -> None:
    """Control: pairwise keys. Mallory is a member, and cannot seal as bert."""
    mallory = three["mallory"].mesh._sessions
    forged = bytearray(mallory.seal(three["anna"].id, encode(Ping(1, bytes(8), ()))))
    forged[10:18] = three["bert"].mesh._sessions.key.id
    unchanged(three, [bytes(forged)])


def test_junk(three: Arena) -> None:
    rng = random.Random(1)
    junk = [rng.randbytes(rng.randrange(0, 1400)) for _ in range(300)]
    unchanged(three, junk + [bytes([1, 1]) + data for data in junk])


def test_hellos_flipped_truncated_and_replayed(three: Arena) -> None:
    """Controls: the signature, the token for the address, and that a hello is no sign of life (mesh/core.py, ``_hello``)."""
    anna = three["anna"].mesh
    three.cut = lambda source, target: three["anna"].address in (source, target)
    three.run(60)
    assert anna.members[three["bert"].id].state == "unreachable"
    three.now_ns += 10**9
    hellos = hellos_of(three, "anna", "bert")
    assert any(anna._greeter.read(data).echo for data in hellos), "there must be one with a good token among them"
    rng = random.Random(1)
    bad = []
    for data in hellos:
        for _ in range(40):
            bit = rng.randrange(16, len(data) * 8)
            bad.append(bytes(b ^ (1 << bit % 8) if i == bit // 8 else b for i, b in enumerate(data)))
        bad += [data[: rng.randrange(len(data))] for _ in range(40)] + [data] * 3
    before = three.snapshot("anna")
    for data in bad:
        three.now_ns += 10**8  # slowly enough for the limiter
        anna.handle_datagram(data, three["bert"].address, three.now())
    after = three.snapshot("anna")
    for state in (before, after):  # what our own timers do meanwhile is not the hello's doing
        del state["probes"], state["awareness"]
    assert after == before
    strange = ("10.9.9.9", 1)
    for data in hellos:
        three.now_ns += 10**8
        anna.handle_datagram(data, strange, three.now())
    after = three.snapshot("anna")
    del after["probes"], after["awareness"]
    assert after == before
