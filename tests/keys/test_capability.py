"""Capabilities: bounds on every field, from both sides."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.capability import MAX_CAPABILITY_BYTES, Capability, check_capability
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError


def exactly(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


capabilities = st.builds(
    Capability, exactly(16), st.text(min_size=1, max_size=64), exactly(32), exactly(32), exactly(32), exactly(16),
    st.integers(1, 32), st.integers(0, 2**62 - 1), st.integers(1, 86_400_000),
)  # fmt: skip
ONE = Capability(b"n" * 16, "incident", b"p" * 32, b"h" * 32, b"g" * 32, b"b" * 16, 3, 5_000, 60_000)


@given(capabilities)
def test_round_trip_within_the_limit(capability):
    assert check_capability(pack(capability)) == capability


def test_the_largest_fits():
    largest = msgspec.structs.replace(ONE, incident="\U0001f4be" * 64, steps=32, granted_ms=2**62 - 1, lapse_ms=86_400_000)
    assert len(pack(largest)) <= MAX_CAPABILITY_BYTES
    assert check_capability(pack(largest)) == largest


def test_truncations_and_flips_never_give_the_same_capability():
    data = pack(ONE)
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            check_capability(data[:size])
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(RemoteProtocolError):
            assert check_capability(bytes(flipped)) != ONE


BAD = [
    {"nonce": b"n" * 15}, {"incident": ""}, {"incident": "i" * 65}, {"plan_hash": b"p" * 31}, {"holder": b""}, {"gate": b"g" * 33},
    {"boot": b"b" * 17}, {"steps": 0}, {"steps": 33}, {"granted_ms": -1}, {"granted_ms": 2**62}, {"lapse_ms": 0}, {"lapse_ms": 86_400_001},
]  # fmt: skip


@pytest.mark.parametrize("changes", BAD, ids=str)
def test_fields_out_of_bounds(changes):
    (field,) = changes
    with pytest.raises(ValueError, match=f"capability: {field} out of bounds"):
        msgspec.structs.replace(ONE, **changes)
    with pytest.raises(RemoteProtocolError, match="^malformed capability$"):
        check_capability(pack(list((msgspec.structs.asdict(ONE) | changes).values())))
