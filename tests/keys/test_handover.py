"""Handovers: two words are needed, the old key's and an issuer's, and neither can be bent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.handover import (
    MAX_SUCCESSION_BYTES,
    Handover,
    Succession,
    open_handover,
    open_succession,
    seal_handover,
    seal_succession,
)
from cloudisense.keys.identity import Identity
from cloudisense.keys.succession import revoking, settling, with_voters
from cloudisense.keys.testing import WALL_MS, issue_for_tests

MESH = issue_for_tests(1)
OLD, NEW, THIEF = (Identity(bytes([n]) * 32) for n in (1, 2, 3))
HANDOVER = seal_handover(OLD, MESH.mesh_id, NEW.id)
CLAIM = seal_succession(MESH.issuer, MESH.mesh_id, HANDOVER, WALL_MS)


def test_it_says_who_whom_by_whom_and_when() -> None:
    found = open_succession(CLAIM, MESH.mesh_id)
    assert (found.node, found.successor, found.issuer, found.issued_ms) == (OLD.id, NEW.id, MESH.issuer.id, WALL_MS)
    assert len(CLAIM) <= MAX_SUCCESSION_BYTES


@given(st.integers(0, 8 * len(CLAIM) - 1))
def test_no_bit_of_it_can_be_changed(bit: int) -> None:
    bent = bytes(byte ^ (1 << bit % 8) if at == bit // 8 else byte for at, byte in enumerate(CLAIM))
    with pytest.raises(RemoteProtocolError):
        open_succession(bent, MESH.mesh_id)


@given(st.integers(0, len(CLAIM) - 1))
def test_nor_left_out(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        open_succession(CLAIM[:length], MESH.mesh_id)


@pytest.mark.parametrize(
    "handover",
    [
        seal(THIEF, "handover", MESH.mesh_id, pack(Handover(OLD.id, THIEF.id))),
        seal_handover(OLD, MESH.mesh_id, OLD.id),
        seal_handover(OLD, MESH.mesh_id, bytes(32)),
        seal_handover(OLD, MESH.foreign_mesh_id, NEW.id),
        seal(OLD, "left", MESH.mesh_id, pack(Handover(OLD.id, NEW.id))),
    ],
    ids=["by another key", "to itself", "to a key of small order", "of another mesh", "of another kind"],
)
def test_handovers_that_are_none(handover: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        open_handover(handover, MESH.mesh_id)
    with pytest.raises(RemoteProtocolError):
        open_succession(seal_succession(MESH.issuer, MESH.mesh_id, handover, WALL_MS), MESH.mesh_id)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        open_succession(seal(MESH.issuer, "succession", MESH.mesh_id, pack([HANDOVER, -1])), MESH.mesh_id)
    with pytest.raises(ValueError, match="bounds"):
        Succession(HANDOVER, 2**53 + 1)


A, B, C, D = (Identity(bytes([n]) * 32).id for n in (11, 12, 13, 14))
ROSTER = with_voters(MESH.roster, (A, B, C))


def test_a_vote_goes_to_the_successor_and_the_old_key_is_out() -> None:
    after = settling(ROSTER, ((A, D),), {D})
    assert (after.voters, after.epoch, after.number) == ((D, B, C), ROSTER.epoch + 1, ROSTER.number + 1)
    assert after.is_revoked(A) and not after.is_revoked(D)
    assert settling(ROSTER, ((A, NEW.id), (NEW.id, D)), {D}).voters == (D, B, C), "over several replacements, too"
    assert settling(with_voters(ROSTER, (A, B, C, D)), ((A, D),), {D}).voters == (B, C, D), "who has a vote gets no second one"


def test_a_vote_waits_for_a_successor_that_is_known() -> None:
    for replaced, known in ((((A, D),), {B}), (((A, D), (D, A)), {A, D}), ((), {D})):
        with pytest.raises(ValueError, match="no key was replaced"):
            settling(with_voters(MESH.roster, (A, D) if len(replaced) == 2 else (A, B)), replaced, known)
    with pytest.raises(ValueError, match="no key was replaced"):
        settling(revoking(ROSTER, D), ((A, D),), {D})
    after = settling(ROSTER, ((A, D), (NEW.id, THIEF.id)), {B})
    assert after.voters == ROSTER.voters and after.epoch == ROSTER.epoch and after.revoked[-1:] == (NEW.id,)


def test_what_others_hang_on_is_left_to_the_root() -> None:
    with pytest.raises(ValueError, match="no key was replaced"):
        settling(ROSTER, ((MESH.issuer.id, D), (MESH.root.id, C)), {C, D})
