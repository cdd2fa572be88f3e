"""Identities, and the three ways in which a lax Ed25519 lets two parties disagree."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.identity import Identity, checked_public_key, node_text, parse_node_text, verify

MESH = b"m" * 32
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
L = 2**252 + 27742317777372353535851937790883648493


def _add(a, b):
    """Affine addition on edwards25519 (RFC 8032, section 5.1.4): slow, short, and not the code under test."""
    (x1, y1), (x2, y2) = a, b
    k = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + k, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, P) % P


def _times(n, point):
    total = (0, 1)
    for bit in bin(n)[2:]:
        total = _add(total, total)
        if bit == "1":
            total = _add(total, point)
    return total


def _point(y):
    """A point with that y, or None."""
    xx = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if x * x % P != xx:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == xx else None


def _encode(point):
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _small_order_points():
    """All eight, found and not copied: any point times L has an order that divides 8."""
    found = set()
    y = 2
    while len(found) < 8:
        point = _point(y)
        if point is not None:
            torsion = _times(L, point)
            for n in range(8):
                found.add(_times(n, torsion))
        y += 1
    return sorted(found)


SMALL_ORDER = _small_order_points()


def test_there_are_eight_points_of_small_order():
    assert len(SMALL_ORDER) == 8
    assert all(_times(8, point) == (0, 1) for point in SMALL_ORDER)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=lambda point: hex(point[1])[:10])
def test_small_order_keys_are_refused_in_every_encoding(point):
    _, y = point
    encodings = {_encode(point)} | {
        (value | sign << 255).to_bytes(32, "little") for value in (y, y + P) if value < 2**255 for sign in (0, 1)
    }
    for raw in encodings:
        with pytest.raises(RemoteProtocolError, match="small order|not canonical"):
            checked_public_key(raw)


def test_a_small_order_key_verifies_nothing():
    """The attack itself: under the neutral point, R = s * B holds for every message."""
    neutral = _encode((0, 1))
    signature = neutral + bytes(32)  # R = neutral, S = 0
    for body in (b"", b"anything"):
        assert not verify(neutral, "alive", MESH, body, signature)


@pytest.mark.parametrize("y", [P, P + 1, P + 18, 2**255 - 1])
def test_non_canonical_keys_are_refused(y):
    for sign in (0, 1):
        with pytest.raises(RemoteProtocolError, match="not canonical"):
            checked_public_key((y | sign << 255).to_bytes(32, "little"))


def test_a_y_off_the_curve_is_refused():
    off = next(y for y in range(2, 100) if _point(y) is None)
    with pytest.raises(RemoteProtocolError, match="not on the curve"):
        checked_public_key(off.to_bytes(32, "little"))


@pytest.mark.parametrize("raw", [b"", b"a" * 31, b"a" * 33])
def test_wrong_lengths_are_refused(raw):
    with pytest.raises(RemoteProtocolError, match="wrong length"):
        checked_public_key(raw)


@given(st.binary(min_size=32, max_size=32))
def test_every_real_identity_is_accepted(seed):
    assert checked_public_key(Identity(seed).id) == Identity(seed).id


def test_the_vector_of_rfc_8032():
    """Section 7.1, TEST 1: the public key of a known seed."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    assert Identity(seed).id.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_signature_holds_for_its_body_only(body, other):
    identity = Identity(b"s" * 32)
    signature = identity.sign("alive", MESH, body)
    assert verify(identity.id, "alive", MESH, body, signature)
    assert verify(identity.id, "alive", MESH, other, signature) == (other == body)


def test_a_signature_holds_for_its_type_its_mesh_and_its_key_only():
    identity, other = Identity(b"s" * 32), Identity(b"t" * 32)
    signature = identity.sign("alive", MESH, b"body")
    assert verify(identity.id, "alive", MESH, b"body", signature)
    assert not verify(identity.id, "left", MESH, b"body", signature)
    assert not verify(identity.id, "alive", b"n" * 32, b"body", signature)
    assert not verify(other.id, "alive", MESH, b"body", signature)


def test_the_signed_bytes_are_as_documented():
    identity = Identity(b"s" * 32)
    identity.private_key.public_key().verify(identity.sign("alive", MESH, b"body"), b"cloudisense/1|alive|" + MESH + b"|body")


def test_s_plus_l_is_refused():
    """The classic malleability: S + L satisfies the same equation (RFC 8032, section 5.1.7 forbids it)."""
    identity = Identity(b"s" * 32)
    signature = identity.sign("alive", MESH, b"body")
    s = int.from_bytes(signature[32:], "little")
    for forged in (s + L, s + 2 * L):
        assert not verify(identity.id, "alive", MESH, b"body", signature[:32] + forged.to_bytes(32, "little"))


def test_every_flipped_bit_of_a_signature_is_refused():
    identity = Identity(b"s" * 32)
    signature = identity.sign("alive", MESH, b"body")
    for bit in range(512):
        flipped = bytearray(signature)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not verify(identity.id, "alive", MESH, b"body", bytes(flipped))


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 65, b"\xff" * 64, bytes(64)])
def test_a_signature_in_bad_form_is_a_plain_no(signature):
    assert not verify(Identity(b"s" * 32).id, "alive", MESH, b"body", signature)


@pytest.mark.parametrize("type_", ["", "Alive", "a|b", "a b", "é", "a" * 33, "a\n"])
def test_a_type_that_could_blur_the_signed_bytes_is_our_bug(type_):
    with pytest.raises(LocalProtocolError):
        Identity(b"s" * 32).sign(type_, MESH, b"")


def test_a_mesh_id_of_another_length_is_our_bug():
    with pytest.raises(LocalProtocolError):
        Identity(b"s" * 32).sign("alive", b"short", b"")


@given(st.binary(min_size=32, max_size=32))
def test_node_text_round_trip(node):
    text = node_text(node)
    assert len(text) == 52
    assert text == text.lower()
    assert parse_node_text(text) == node


@given(st.text(max_size=60) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=50, max_size=53))
def test_node_text_is_canonical(text):
    try:
        node = parse_node_text(text)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert node_text(node) == text


def test_other_texts_of_the_same_node_are_refused():
    text = node_text(b"\x00" * 32)
    for other in (text.upper(), text + "=", text + "a", text[:-1], " " + text, text[:-1] + "b"):
        with pytest.raises(ValueError, match="not a node id"):
            parse_node_text(other)


def test_node_text_of_something_else_is_our_bug():
    with pytest.raises(LocalProtocolError):
        node_text(b"short")


def test_generate_takes_its_randomness_from_the_argument():
    assert Identity.generate(random.Random(1)).id == Identity.generate(random.Random(1)).id
    assert Identity.generate(random.Random(1)).id != Identity.generate(random.Random(2)).id
    identity = Identity.generate(random.Random(1))
    assert Identity(identity.seed).id == identity.id


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(ValueError, match="32 bytes"):
        Identity(b"short")


def test_the_secret_is_not_in_repr():
    identity = Identity(b"s" * 32)
    assert "ssss" not in repr(identity)
    assert node_text(identity.id) in repr(identity)
