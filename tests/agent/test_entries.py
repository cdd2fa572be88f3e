"""The words between agents, from hostile hands."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.entries import KIND_OF, KINDS, StepReply, StepRequest, decode_direct
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError


def bodies(rig) -> list:
    return [rig.alert(), rig.help(), rig.offer(), rig.intent(), rig.outcome(), rig.failed(), rig.closed()]


def test_every_kind_comes_back_as_it_went(rig) -> None:
    for body in bodies(rig):
        assert unpack(pack(body), KINDS[KIND_OF[type(body)]]) == body


def test_numbers_that_no_table_holds(rig) -> None:
    """One of these in a row would stop the writer of every node in the mesh."""
    for body in bodies(rig):
        for name in body.__struct_fields__:
            if type(getattr(body, name)) is int and name != "index":
                for bad in (2**63, 2**64 - 1, -(2**63)):
                    with pytest.raises(RemoteProtocolError):
                        unpack(pack(msgspec.structs.replace(body, **{name: bad})), type(body))


def test_a_plan_without_steps(rig) -> None:
    """It would break whoever looks for its first step."""
    offer = rig.offer()
    bad = msgspec.structs.replace(offer, plan=msgspec.structs.replace(offer.plan, steps=()))
    with pytest.raises(RemoteProtocolError):
        unpack(pack(bad), type(offer))
    help = rig.help()
    bad = msgspec.structs.replace(help, candidates=(msgspec.structs.replace(help.candidates[0], steps=()),))
    with pytest.raises(RemoteProtocolError):
        unpack(pack(bad), type(help))


@given(st.binary(max_size=80))
def test_direct_junk(junk: bytes) -> None:
    try:
        message = decode_direct(junk)
    except RemoteProtocolError:
        return
    assert isinstance(message, StepRequest | StepReply)


@pytest.mark.parametrize("message", [StepRequest("i", b"n", 0, b"p"), StepReply(b"n", 0, "done", "d")])
def test_direct(message: StepRequest | StepReply) -> None:
    assert decode_direct(pack(message)) == message
    with pytest.raises(RemoteProtocolError):
        decode_direct(pack(message) + b"x")
    with pytest.raises(RemoteProtocolError):
        decode_direct(b"x" * (16 * 1024 + 1))
