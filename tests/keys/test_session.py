"""Sessions: who can open what, and what an attacker on the path can do. Sequences are in test_session_machine."""

import random
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys import session as module
from cloudisense.keys.errors import InvariantBroken, LocalProtocolError, RemoteProtocolError
from cloudisense.keys.session import (
    MAX_DATAGRAM_BYTES,
    OLD_KEY_GOOD_NS,
    OVERHEAD_BYTES,
    SessionKey,
    Sessions,
    checked_session_key,
    is_sealed,
    key_id,
)

MESH, A, B, C = b"m" * 32, b"a" * 32, b"b" * 32, b"c" * 32


@dataclass(frozen=True)
class At:
    boot_ns: int


NOW = At(10**9)
LATER = At(NOW.boot_ns + OLD_KEY_GOOD_NS)
RNG = random.Random(1)


def new_key() -> SessionKey:
    return SessionKey.generate(RNG)


def pair(mesh_a: bytes = MESH, mesh_b: bytes = MESH) -> tuple[Sessions, Sessions]:
    a, b = Sessions(A, mesh_a, new_key()), Sessions(B, mesh_b, new_key())
    a.learn(B, b.key.public, NOW)
    b.learn(A, a.key.public, NOW)
    return a, b


def refuse(sessions: Sessions, datagram: bytes, reason: str, now: At = NOW) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        sessions.open(datagram, now)
    assert caught.value.reason == reason


@given(st.binary(max_size=2000), st.binary(max_size=100))
def test_both_directions(there, back):
    a, b = pair()
    assert b.open(a.seal(B, there), NOW) == (A, there)
    assert a.open(b.seal(A, back), NOW) == (B, back)


def test_the_bytes_are_as_documented():
    """An independent reading of the module's docstring, which docs/wire.md repeats."""
    secret_a, secret_b = b"1" * 32, b"2" * 32
    a, b = Sessions(A, MESH, SessionKey(secret_a)), SessionKey(secret_b)
    a.learn(B, b.public, NOW)
    a.seal(B, b"the first")
    datagram = a.seal(B, b"the second")
    shared = X25519PrivateKey.from_private_bytes(secret_b).exchange(X25519PublicKey.from_public_bytes(a.key.public))
    info = b"cloudisense/1|session|" + A + key_id(a.key.public) + B + key_id(b.public)
    keys = HKDF(SHA256(), 64, MESH, info).derive(shared)
    up, down = keys[:32], keys[32:]
    assert datagram[:26] == b"\x01\x01" + b.id + a.key.id + (1).to_bytes(8, "big")
    assert ChaCha20Poly1305(up).decrypt(bytes(4) + datagram[18:26], datagram[26:], datagram[:26]) == b"the second"
    header = b"\x01\x01" + a.key.id + b.id + bytes(8)
    assert a.open(header + ChaCha20Poly1305(down).encrypt(bytes(12), b"back", header), NOW) == (B, b"back")


def test_each_direction_has_its_own_key():
    """One key for both would use every nonce twice: the two ciphertexts of zeros would be the same."""
    a, b = pair()
    there, back = a.seal(B, bytes(64)), b.seal(A, bytes(64))
    assert there[18:26] == back[18:26]
    assert there[26:90] != back[26:90]


def test_every_flipped_bit_is_refused_and_changes_nothing():
    a, b = pair()
    datagram = a.seal(B, b"x" * 20)
    for bit in range(len(datagram) * 8):
        flipped = bytearray(datagram)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            b.open(bytes(flipped), NOW)
    assert b.open(datagram, NOW) == (A, b"x" * 20)


def test_every_truncation_is_refused():
    a, b = pair()
    datagram = a.seal(B, b"")
    assert len(datagram) == OVERHEAD_BYTES
    for size in range(len(datagram)):
        refuse(b, datagram[:size], "malformed")


@given(st.binary(max_size=120))
def test_junk_is_refused(junk):
    a, b = pair()
    head = a.seal(B, b"")[:18]
    for datagram in (junk, b"\x01\x01" + junk, head + junk):
        with pytest.raises(RemoteProtocolError):
            b.open(datagram, NOW)


def test_reasons():
    a, b = pair()
    c = Sessions(C, MESH, new_key())
    c.learn(B, b.key.public, NOW)
    datagram = a.seal(B, b"hi")
    refuse(c, datagram, "for another key")
    refuse(b, c.seal(B, b"hi"), "unknown key")
    b.open(datagram, NOW)
    refuse(b, datagram, "replayed")
    refuse(b, datagram[:-1] + bytes([datagram[-1] ^ 1]), "replayed")  # the counter is spent, whatever follows
    fresh = a.seal(B, b"hi")
    refuse(b, fresh[:-1] + bytes([fresh[-1] ^ 1]), "not authentic")
    refuse(b, b"\x02" + fresh[1:], "malformed")
    refuse(b, fresh + bytes(MAX_DATAGRAM_BYTES), "malformed")


def test_a_datagram_cannot_be_sent_back_to_its_sender():
    a, _b = pair()
    datagram = a.seal(B, b"hi")
    refuse(a, datagram, "for another key")
    swapped = datagram[:2] + datagram[10:18] + datagram[2:10] + datagram[18:]
    refuse(a, swapped, "not authentic")


def test_two_meshes_with_the_same_keys_do_not_talk():
    a, b = pair(MESH, b"n" * 32)
    refuse(b, a.seal(B, b"hi"), "not authentic")


def test_the_ids_are_bound():
    a, b = pair()
    impostor = Sessions(C, MESH, a.key)  # even with A's session key, C cannot speak as A
    impostor.learn(B, b.key.public, NOW)
    refuse(b, impostor.seal(B, b"hi"), "not authentic")


def test_a_member_that_claims_anothers_key_does_not_shadow_it():
    a, b = Sessions(A, MESH, new_key()), Sessions(B, MESH, new_key())
    a.learn(B, b.key.public, NOW)
    b.learn(C, a.key.public, NOW)  # C was quicker with A's key than A
    refuse(b, a.seal(B, b"hi"), "not authentic")
    b.learn(A, a.key.public, NOW)
    assert b.open(a.seal(B, b"hi"), NOW) == (A, b"hi")
    b.forget(C)
    assert b.open(a.seal(B, b"hi"), NOW) == (A, b"hi")
    refuse(b, b"\x01\x01" + b.key.id + a.key.id + (1).to_bytes(8, "big") + bytes(16), "replayed")


def test_is_sealed_tells_a_hello_apart():
    a, _ = pair()
    assert is_sealed(a.seal(B, b""))
    assert not is_sealed(bytes([module.VERSION, module.HELLO]) + bytes(60))
    assert not is_sealed(b"")
    assert not is_sealed(b"\x02\x01" + bytes(60))


P = 2**255 - 19
ORDER_8 = [
    int.from_bytes(bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"), "little"),
    int.from_bytes(bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"), "little"),
]


@pytest.mark.parametrize("u", [0, 1, P - 1, *ORDER_8])
def test_keys_of_low_order_are_refused_in_every_form(u):
    """The bytes are those of the X25519 literature; that they are right, the library's own zero check shows."""
    for form in {u, u | 1 << 255} | ({u + P} if u + P < 2**255 else set()):
        raw = form.to_bytes(32, "little")
        with pytest.raises(ValueError, match="."):
            X25519PrivateKey.from_private_bytes(b"s" * 32).exchange(X25519PublicKey.from_public_bytes(raw))
        with pytest.raises(RemoteProtocolError, match="bad session key"):
            checked_session_key(raw)
        with pytest.raises(RemoteProtocolError, match="bad session key"):
            new_key().exchange(raw)


@pytest.mark.parametrize("raw", [b"", b"x" * 31, b"x" * 33, b"\xff" * 32, (P + 9).to_bytes(32, "little")])
def test_keys_in_bad_form_are_refused_and_change_nothing(raw):
    a, b = pair()
    with pytest.raises(RemoteProtocolError, match="bad session key"):
        a.learn(B, raw, NOW)
    assert b.open(a.seal(B, b"hi"), NOW) == (A, b"hi")


def test_a_new_key_supersedes_and_the_old_one_opens_for_two_minutes():
    a, b = pair()
    late, later = a.seal(B, b"late"), a.seal(B, b"later")
    restarted = Sessions(A, MESH, new_key())
    restarted.learn(B, b.key.public, NOW)
    b.learn(A, restarted.key.public, NOW)
    assert restarted.open(b.seal(A, b"hi"), NOW) == (B, b"hi")
    assert b.open(restarted.seal(B, b"hi"), NOW) == (A, b"hi")
    assert b.open(late, At(LATER.boot_ns - 1)) == (A, b"late")
    refuse(b, late, "replayed", At(LATER.boot_ns - 1))
    refuse(b, later, "unknown key", LATER)


def test_a_third_key_ends_the_first_at_once():
    a, b = pair()
    first = a.seal(B, b"first")
    b.learn(A, new_key().public, NOW)
    b.learn(A, new_key().public, NOW)
    refuse(b, first, "unknown key")


def test_the_same_claim_again_changes_nothing():
    a, b = pair()
    first = a.seal(B, b"first")
    public = new_key().public
    for _ in range(3):
        b.learn(A, public, NOW)
    assert b.open(first, NOW) == (A, b"first")
    assert sum(len(claimants) for claimants in b._claimants.values()) == 2


def test_our_own_rotation():
    a, b = pair()
    underway = b.seal(A, b"underway")
    a.rotate(new_key(), NOW)
    assert b.open(a.seal(B, b"under the old key"), NOW) == (A, b"under the old key")
    assert a.open(underway, NOW) == (B, b"underway")
    assert b.open(a.seal(B, b"still under the old key"), NOW) == (A, b"still under the old key")
    b.learn(A, a.key.public, NOW)
    assert a.open(b.seal(A, b"hi"), NOW) == (B, b"hi")
    datagram = a.seal(B, b"under the new key")
    assert datagram[10:18] == a.key.id
    assert b.open(datagram, NOW) == (A, b"under the new key")


def test_our_old_key_ends_after_two_minutes():
    a, b = pair()
    datagram, late = b.seal(A, b"in time"), b.seal(A, b"too late")
    a.rotate(new_key(), NOW)
    assert a.open(datagram, At(LATER.boot_ns - 1)) == (B, b"in time")
    refuse(a, late, "for another key", LATER)
    assert a.seal(B, b"")[10:18] == a.key.id


def test_rotating_to_the_same_key_is_our_bug():
    a, _ = pair()
    with pytest.raises(LocalProtocolError):
        a.rotate(a.key, NOW)


def test_forget_and_knows():
    a, b = pair()
    datagram = a.seal(B, b"hi")
    assert b.knows(A)
    b.forget(A)
    b.forget(A)
    assert not b.knows(A)
    refuse(b, datagram, "unknown key")
    with pytest.raises(LocalProtocolError):
        b.seal(A, b"hi")


def test_forgetting_and_learning_again_reuses_no_counter_and_takes_no_replay():
    """The same two keys derive the same AEAD keys: a counter from zero would be a nonce used twice."""
    a, b = pair()
    seen = [a.seal(B, b"one"), a.seal(B, b"two")]
    for datagram in seen:
        b.open(datagram, NOW)
    for sessions, peer, public in ((a, B, b.key.public), (b, A, a.key.public)):
        sessions.forget(peer)
        sessions.learn(peer, public, NOW)
    again = a.seal(B, b"three")
    assert again[18:26] == (2).to_bytes(8, "big")
    for datagram in seen:
        refuse(b, datagram, "replayed")
    assert b.open(again, NOW) == (A, b"three")


def test_going_back_to_the_key_before_reuses_no_counter():
    a, b = pair()
    first = a.seal(B, b"x")
    old = b.key.public
    a.learn(B, new_key().public, NOW)
    a.learn(B, old, NOW)
    assert a.seal(B, b"y")[:26] != first[:26]


def test_peers_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_PEERS", 2)
    a, _ = pair()
    a.learn(C, new_key().public, NOW)
    with pytest.raises(RemoteProtocolError, match="too many peers"):
        a.learn(b"d" * 32, new_key().public, NOW)
    a.learn(C, new_key().public, NOW)  # a known one may still change its key
    a.forget(C)
    a.learn(b"d" * 32, new_key().public, NOW)


def test_retired_positions_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_RETIRED", 3)
    a, _ = pair()
    for number in range(10):
        peer = bytes([100 + number]) * 32
        a.learn(peer, new_key().public, NOW)
        a.seal(peer, b"")
        a.forget(peer)
    assert len(a._own.retired) == 3
    assert len(a._own.pairs) == 0
    assert not [claimants for claimants in a._claimants.values() if B not in claimants]


def test_a_spent_counter_stops_the_node():
    a, _ = pair()
    a.seal(B, b"")
    a._own.pairs[B, a._peers[B].id].counter = 2**64 - 1
    with pytest.raises(InvariantBroken):
        a.seal(B, b"")


def test_misuse_is_our_bug():
    a, _ = pair()
    with pytest.raises(LocalProtocolError):
        a.seal(C, b"")
    with pytest.raises(LocalProtocolError):
        a.seal(B, bytes(MAX_DATAGRAM_BYTES - OVERHEAD_BYTES + 1))
    with pytest.raises(LocalProtocolError):
        a.learn(A, new_key().public, NOW)
    with pytest.raises(LocalProtocolError):
        Sessions(b"short", MESH, new_key())
    assert len(a.seal(B, bytes(MAX_DATAGRAM_BYTES - OVERHEAD_BYTES))) == MAX_DATAGRAM_BYTES


def test_nothing_is_derived_before_it_is_needed():
    a, b = pair()
    assert not a._own.pairs
    assert not b._own.pairs
    b.open(a.seal(B, b""), NOW)
    assert len(a._own.pairs) == len(b._own.pairs) == 1
