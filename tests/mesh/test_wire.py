"""The messages: there and back, and nothing but ``RemoteProtocolError`` for anything else."""

from typing import get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh import wire
from cloudisense.mesh.checkpoint import Bundle
from cloudisense.mesh.wire import Message, decode, encode

LIMIT = 4096
NUMBERS = st.integers(-(2**63), 2**64 - 1)
CLAIMS = st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=40)), max_size=3).map(tuple)
VECTOR = st.lists(st.tuples(st.binary(max_size=32), NUMBERS, NUMBERS), max_size=3).map(tuple)
HEADS = st.lists(st.tuples(st.binary(max_size=32), NUMBERS, st.booleans()), max_size=3).map(tuple)
PARTS = st.lists(st.binary(max_size=60), max_size=3).map(tuple)
MESSAGES = st.one_of(
    st.builds(wire.Ping, NUMBERS, st.binary(max_size=8), CLAIMS),
    st.builds(wire.Ack, NUMBERS, st.binary(max_size=8), CLAIMS),
    st.builds(wire.PingRequest, NUMBERS, st.binary(max_size=32)),
    st.builds(wire.Nack, NUMBERS),
    st.builds(wire.Claims, CLAIMS),
    st.builds(wire.Push, PARTS, st.booleans()),
    st.builds(wire.Got, VECTOR),
    st.builds(wire.PushPull, CLAIMS, HEADS, VECTOR, NUMBERS, st.booleans(), st.binary(max_size=8), VECTOR, PARTS),
    st.builds(wire.Direct, st.binary(max_size=60)),
    st.builds(wire.Rosters, PARTS),
    st.builds(wire.Relay, PARTS, st.binary(max_size=32), st.binary(max_size=32)),
    st.builds(wire.Propose, st.binary(max_size=60)),
    st.builds(wire.Cosigned, st.binary(max_size=60)),
    st.builds(wire.Bundles, st.tuples(st.builds(Bundle, st.binary(max_size=60), PARTS))),
    st.builds(wire.Forks, st.tuples(st.tuples(st.binary(max_size=60), st.binary(max_size=60)))),
)


def packed(value: object) -> bytes:
    return msgpack.packb(value) or b""


def decoded(data: bytes) -> Message | None:
    """``None`` for a refusal; any other exception is the test's failure."""
    try:
        return decode(data, LIMIT)
    except RemoteProtocolError:
        return None


@given(MESSAGES)
def test_there_and_back(message: Message) -> None:
    assert decode(encode(message), LIMIT) == message


def test_every_message_has_the_tag_that_the_page_gives_it() -> None:
    tags = {kind.__name__: kind.__struct_config__.tag for kind in get_args(Message)}
    assert tags == {
        "Ping": 1, "Ack": 2, "PingRequest": 3, "Nack": 4, "Claims": 5, "Push": 6, "Got": 7, "PushPull": 8, "Direct": 9,
        "Rosters": 10, "Relay": 11, "Propose": 12, "Cosigned": 13, "Bundles": 14, "Forks": 15,
    }  # fmt: skip
    assert encode(wire.Ping(7, b"digest..", ())) == bytes.fromhex("94 01 07 c4 08") + b"digest.." + b"\x90"


@given(MESSAGES, st.data())
def test_a_part_of_a_message_is_none(message: Message, data: st.DataObject) -> None:
    whole = encode(message)
    assert decoded(whole[: data.draw(st.integers(0, len(whole) - 1))]) is None
    assert decoded(whole + b"\xc0") is None


@given(MESSAGES, st.data())
def test_a_flipped_bit_is_refused_or_another_message(message: Message, data: st.DataObject) -> None:
    whole = bytearray(encode(message))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    assert decoded(bytes(whole)) != message


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_or_a_message(data: bytes) -> None:
    decoded(data)


@pytest.mark.parametrize(
    "value",
    [
        [], [0], [99, b""], [12, "text"], [14, [[b"", b""]]],
            ["1", 1, b"", []], [1, 1, b""], [1, "1", b"", []], [1, 1, "text", []], [1, 1.0, b"", []],
        [5, [[b"claim"]]], [5, [[b"claim", b"", b""]]], [5, [["claim", ""]]], [6, b"entry", True], [6, ["text"], True],
        [6, [b"entry"]], [6, [b"entry"], 1], [7, [[b"", 1]]],
        [7, [[b"", 1, True]]],
        [8, [], [], 1], [8, [], [], [], 1, 1], [8, [], [[b"", 1, 1]], [], 1, True], [8, [], [], [], True, True],
        [10, b"roster"], [10, ["text"]], [11, [], b""], [11, b"", b"", b""], [11, [], "a", "b"],
        [9, "body"], [9, None], {1: 2}, {"sequence": 1}, 1, None, "text",
    ],
)  # fmt: skip
def test_wrong_types_are_refused(value: object) -> None:
    assert decoded(packed(value)) is None


def test_what_a_later_version_adds_at_the_end_is_ignored() -> None:
    assert decoded(packed([1, 1, b"", [], "more"])) == wire.Ping(1, b"", ())


def test_the_limit_is_on_the_bytes() -> None:
    data = encode(wire.Direct(bytes(100)))
    assert decode(data, len(data)) == wire.Direct(bytes(100))
    with pytest.raises(RemoteProtocolError, match="too long"):
        decode(data, len(data) - 1)
