"""The codec: what goes in comes out, and nothing that comes from outside ends in any error but RemoteProtocolError."""

import contextlib
import struct
import tracemalloc
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.encoding import MAX_BYTES, pack, unpack
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError


class Ping(msgspec.Struct, frozen=True, array_like=True, tag="ping"):
    number: int
    digest: bytes
    rate: float = 0.0


class Claim(msgspec.Struct, frozen=True, array_like=True, tag="claim"):
    name: str
    pairs: tuple[tuple[bytes, int], ...]


Message: Any = Ping | Claim

messages = st.one_of(
    st.builds(Ping, st.integers(-(2**63), 2**64 - 1), st.binary(max_size=40), st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(Claim, st.text(max_size=20), st.lists(st.tuples(st.binary(max_size=8), st.integers(0, 255)), max_size=5).map(tuple)),
)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False, allow_infinity=False)
)
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4))


@given(messages)
def test_a_tagged_union_comes_back_as_it_was(message: Ping | Claim):
    assert unpack(pack(message), Message) == message


@given(trees)
def test_builtins_come_back_as_they_were(tree: object):
    assert unpack(pack(tree), object) == tree


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 9), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_a_map_does_not_matter(mapping, random):
    items = list(mapping.items())
    random.shuffle(items)
    assert pack(dict(items)) == pack(mapping)


def test_tuples_and_lists_are_the_same():
    assert pack((1, (2, b"x"))) == pack([1, [2, b"x"]])


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": -float("inf")}, 2**64, -(2**63) - 1, object(), {1: 2, "a": 3}])
def test_what_has_no_encoding_is_our_bug(value):
    with pytest.raises(LocalProtocolError):
        pack(value)


def test_nesting_without_end_is_our_bug():
    value: list = []
    value.append(value)
    with pytest.raises(LocalProtocolError):
        pack(value)


def _extension(code: int, data: bytes) -> bytes:
    return bytes([0xC7, len(data), code]) + data


HOSTILE = {
    "empty": b"",
    "unused byte": b"\xc1",
    "trailing byte": pack(["ping", 1, b""]) + b"\x00",
    "two values": pack(["ping", 1, b""]) * 2,
    "extension": _extension(5, b"a"),
    "empty extension": b"\xc7\x00\x01",
    "timestamp": msgpack.packb(msgpack.Timestamp(1, 2)),
    "nan": b"\x94\xa4ping\x01\xc4\x00\xcb" + struct.pack(">d", float("nan")),
    "float32 nan": b"\x94\xa4ping\x01\xc4\x00\xca" + struct.pack(">f", float("nan")),
    "infinity": b"\x94\xa4ping\x01\xc4\x00\xcb" + struct.pack(">d", float("inf")),
    "unknown tag": pack(["pong", 1, b""]),
    "no tag": pack([1, b""]),
    "too few fields": pack(["ping", 1]),
    "text for a number": pack(["ping", "1", b""]),
    "bool for a number": pack(["ping", True, b""]),
    "float for a number": pack(["ping", 1.0, b""]),
    "text for bytes": pack(["ping", 1, "YQ=="]),
    "map for a struct": pack({"number": 1, "digest": b""}),
    "number as map key": b"\x81\x01\x02",
    "array as map key": b"\x81\x90\x02",
    "bad utf-8": b"\x92\xa5claim\xa1\xff",
    "huge array": b"\xdd\xff\xff\xff\xff",
    "huge map": b"\xdf\xff\xff\xff\xff",
    "huge text": b"\xdb\xff\xff\xff\xff",
    "huge bytes": b"\xc6\xff\xff\xff\xff",
    "huge extension": b"\xc9\xff\xff\xff\xff\x01",
    "deep arrays": b"\x91" * 60_000 + b"\xc0",
    "deep maps": b"\x81\xa0" * 30_000 + b"\xc0",
    "deep, not so deep": b"\x91" * 900 + b"\xc0",
    "deep in a struct": b"\x92\xa4ping" + b"\x91" * 400 + b"\xc0",
    "too long": pack(b"x" * MAX_BYTES),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_input_is_refused(data: bytes):
    with pytest.raises(RemoteProtocolError, match="^malformed message"):
        unpack(data, Message)


@pytest.mark.parametrize(
    "name", ["extension", "empty extension", "timestamp", "trailing byte", "number as map key", "bad utf-8", "deep arrays"]
)
def test_it_is_refused_even_where_any_type_is_wanted(name: str):
    with pytest.raises(RemoteProtocolError):
        unpack(HOSTILE[name], object)


@given(st.binary(max_size=200))
def test_random_bytes_give_a_value_or_one_error(data: bytes):
    for type_ in (object, Ping, Message):
        with contextlib.suppress(RemoteProtocolError):
            unpack(data, type_)


@given(messages, st.data())
def test_no_prefix_is_accepted(message: Ping | Claim, data):
    encoded = pack(message)
    with pytest.raises(RemoteProtocolError):
        unpack(encoded[: data.draw(st.integers(0, len(encoded) - 1))], Message)


@given(messages)
def test_a_flipped_bit_gives_another_value_or_one_error(message: Ping | Claim):
    encoded = pack(message)
    for bit in range(len(encoded) * 8):
        flipped = bytearray(encoded)
        flipped[bit // 8] ^= 1 << bit % 8
        with contextlib.suppress(RemoteProtocolError):
            assert isinstance(unpack(bytes(flipped), Message), (Ping, Claim))


def test_the_limit_is_on_the_bytes_and_exact():
    data = pack(b"x" * 98)  # two bytes of header
    assert unpack(data, bytes, 100) == b"x" * 98
    with pytest.raises(RemoteProtocolError, match="malformed bytes: too long"):
        unpack(data, bytes, 99)


def test_declared_lengths_allocate_nothing():
    """A msgpack array header of 5 bytes can promise 2**32 items; nested, each promise used to be allocated."""
    bomb = (b"\xdd" + struct.pack(">I", 60_000)) * 900 + b"\xc0" * 60_000
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError):
            unpack(bomb, object, len(bomb))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(bomb)


def test_the_reason_names_the_type_in_words():
    class SignedThing(msgspec.Struct, array_like=True):
        x: int

    with pytest.raises(RemoteProtocolError) as caught:
        unpack(b"\x90", SignedThing)
    assert caught.value.reason == "malformed signed thing"


def test_a_check_in_post_init_counts_as_malformed():
    class Even(msgspec.Struct, array_like=True):
        x: int

        def __post_init__(self) -> None:
            if self.x % 2:
                raise ValueError("odd")

    assert unpack(pack([2]), Even).x == 2
    with pytest.raises(RemoteProtocolError, match="malformed even"):
        unpack(pack([3]), Even)
