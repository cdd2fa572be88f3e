"""Envelopes: one statement has one form, and only its signer can have made it."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import Envelope, open_envelope, read_envelope, seal
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.identity import Identity

MESH = b"m" * 32
ALICE = Identity(b"a" * 32)
SEALED = seal(ALICE, "alert", MESH, b"the body")


@given(st.from_regex(r"[a-z0-9_]{1,32}", fullmatch=True), st.binary(max_size=300))
def test_round_trip(type_, body):
    data = seal(ALICE, type_, MESH, body)
    envelope = open_envelope(data, MESH, type_)
    assert (envelope.type, envelope.body, envelope.signer) == (type_, body, ALICE.id)
    assert open_envelope(data, MESH, None) == read_envelope(data) == envelope


def test_every_flipped_bit_is_refused():
    for bit in range(len(SEALED) * 8):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            open_envelope(bytes(flipped), MESH, None)


def test_every_truncation_and_an_appended_byte_are_refused():
    for size in range(len(SEALED)):
        with pytest.raises(RemoteProtocolError):
            read_envelope(SEALED[:size])
    with pytest.raises(RemoteProtocolError):
        read_envelope(SEALED + b"\x00")


def test_another_encoding_of_the_same_envelope_is_refused():
    """Nobody on the way may give a signed statement a second form, and with it a second hash: it would look like a fork."""
    envelope = read_envelope(SEALED)
    longer_bin = SEALED.replace(b"\xc4\x08the body", b"\xc5\x00\x08the body")
    assert longer_bin != SEALED
    assert msgpack.unpackb(longer_bin) == msgpack.unpackb(SEALED)
    for other in (longer_bin, pack([envelope.type, envelope.body, envelope.signer, envelope.signature, 1])):
        with pytest.raises(RemoteProtocolError, match="malformed envelope"):
            read_envelope(other)


def test_another_type_another_mesh_and_another_signer_are_refused():
    with pytest.raises(RemoteProtocolError, match="not of type offer"):
        open_envelope(SEALED, MESH, "offer")
    with pytest.raises(RemoteProtocolError, match="bad signature"):
        open_envelope(SEALED, b"n" * 32, "alert")
    envelope = read_envelope(SEALED)
    stolen = pack(Envelope(envelope.type, envelope.body, Identity(b"b" * 32).id, envelope.signature))
    with pytest.raises(RemoteProtocolError, match="bad signature"):
        open_envelope(stolen, MESH, "alert")


def test_the_peer_of_a_bad_signature_is_named():
    with pytest.raises(RemoteProtocolError) as caught:
        open_envelope(SEALED, b"n" * 32, "alert")
    assert caught.value.peer == ALICE.id


def test_a_small_order_signer_is_refused():
    neutral = (1).to_bytes(32, "little")
    forged = pack(Envelope("alert", b"any words", neutral, neutral + bytes(32)))
    with pytest.raises(RemoteProtocolError, match="bad signature"):
        open_envelope(forged, MESH, "alert")


def test_the_limit_holds():
    with pytest.raises(RemoteProtocolError, match="too long"):
        open_envelope(SEALED, MESH, "alert", len(SEALED) - 1)


@pytest.mark.parametrize(
    "fields", [["Alert", b"", b"k" * 32, b"s" * 64], ["alert", b"", b"k" * 31, b"s" * 64], ["alert", b"", b"k" * 32, b"s" * 63]]
)
def test_fields_out_of_bounds_are_malformed(fields):
    with pytest.raises(RemoteProtocolError, match="malformed envelope"):
        read_envelope(pack(fields))


def test_an_unspeakable_type_is_our_bug():
    with pytest.raises(LocalProtocolError):
        seal(ALICE, "no|pipes", MESH, b"")
