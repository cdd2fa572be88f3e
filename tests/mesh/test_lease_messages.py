"""Lease messages come back as they went, and nothing out of bounds comes in."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.lease_messages import (
    EpochForced,
    LeaseDenied,
    LeaseGranted,
    LeaseMessage,
    LeaseReleased,
    LeaseRequest,
    SealAsk,
    Sealed,
    decode,
    encode,
)

NONCE = b"n" * 16
ALL: list[LeaseMessage] = [
    LeaseRequest("db", 1, 2, NONCE), LeaseGranted(b"g"), LeaseDenied("db", NONCE, "held", 1, 2, 3), LeaseReleased("db", 1, 2),
    SealAsk(3), Sealed(b"s"), EpochForced(b"f"),
]  # fmt: skip


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_round_trip(message: LeaseMessage) -> None:
    assert decode(encode(message)) == message


@pytest.mark.parametrize(
    "data",
    [
        [20, "", 1, 2, NONCE],
        [20, "a\nb", 1, 2, NONCE], [20, "x" * 129, 1, 2, NONCE], [20, "db", -1, 2, NONCE], [20, "db", 1, 2**53, NONCE],
        [20, "db", 1, 2, b"short"], [21, b"x" * 513], [22, "db", NONCE, "because", 1, 2, 3], [22, "db", NONCE, "held", 1, 2, -1],
        [22, "db", NONCE, "held", 1, 2, 2**40], [24, -1], [99],
    ],
)  # fmt: skip
def test_out_of_bounds(data: list[object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(pack(data))


@given(st.binary(max_size=200))
def test_junk(data: bytes) -> None:
    with contextlib.suppress(RemoteProtocolError):
        assert encode(decode(data))
