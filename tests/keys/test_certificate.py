"""Certificates: accepted only from a listed issuer, for a live key, in their time."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.certificate import LABELS_CHARS, MAX_CERTIFICATE_BYTES, MAX_LABELS, ROLES, Certificate, check_certificate, issue
from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.testing import WALL_MS, issue_for_tests

MESH = issue_for_tests(1)
NODE = Identity(b"n" * 32)


def certificate(**changes) -> Certificate:
    fields = {
        "node": NODE.id, "name": "edge-1", "roles": ("member", "actor"), "labels": (("zone", "cellar"),),
        "not_before_ms": WALL_MS - 1000, "not_after_ms": WALL_MS + 1000, "issuer": MESH.issuer.id,
    }  # fmt: skip
    return Certificate(**(fields | changes))


def check(data: bytes, wall_ms: int = WALL_MS, wall_trusted: bool = True, roster=MESH.roster) -> Certificate:
    return check_certificate(data, roster, MESH.mesh_id, wall_ms, wall_trusted)


names = st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True)
labels = st.dictionaries(
    st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,10}", fullmatch=True), st.from_regex(r"[ -~]{0,20}", fullmatch=True), max_size=5
)


@given(names, st.lists(st.sampled_from(ROLES), min_size=1, unique=True), labels)
def test_round_trip(name, roles, label_map):
    made = certificate(name=name, roles=tuple(roles), labels=tuple(sorted(label_map.items())))
    assert check(issue(MESH.issuer, MESH.mesh_id, made)) == made


def largest() -> tuple[tuple[str, str], ...]:
    """As many labels, and as many characters in them, as there may be."""
    many = tuple((f"{number:02}" + "k" * 20, "v" * 18) for number in range(MAX_LABELS))
    assert sum(len(key) + len(value) for key, value in many) == LABELS_CHARS
    return many


def test_the_largest_one_fits():
    many = largest()
    made = certificate(name="n" * 63, roles=ROLES, labels=many)
    data = issue(MESH.issuer, MESH.mesh_id, made)
    assert len(data) <= MAX_CERTIFICATE_BYTES
    assert check(data) == made
    with pytest.raises(ValueError, match="at most 640 characters"):
        certificate(labels=(*many[1:], (many[0][0], many[0][1] + "v")))


def test_every_flipped_bit_and_truncation_is_refused():
    data = MESH.valid.certificate
    check(data)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            check(bytes(flipped))
    for size in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            check(data[:size])


@pytest.mark.parametrize(
    ("wall_ms", "reason"),
    [(WALL_MS - 1001, "certificate not yet valid"), (WALL_MS - 1000, None), (WALL_MS + 999, None), (WALL_MS + 1000, "certificate expired")],
)
def test_validity_counts_only_under_a_trusted_clock(wall_ms, reason):
    data = issue(MESH.issuer, MESH.mesh_id, certificate())
    assert check(data, wall_ms, wall_trusted=False).node == NODE.id
    if reason is None:
        assert check(data, wall_ms).node == NODE.id
    else:
        with pytest.raises(RemoteProtocolError) as caught:
            check(data, wall_ms)
        assert caught.value.reason == reason


def test_a_revoked_node_is_refused_whatever_its_certificate_and_clock_say():
    for trusted in (True, False):
        with pytest.raises(RemoteProtocolError, match="^revoked key$"):
            check(MESH.revoked.certificate, wall_trusted=trusted)
    renewed = issue(MESH.issuer, MESH.mesh_id, certificate(node=MESH.revoked.identity.id))
    with pytest.raises(RemoteProtocolError, match="^revoked key$"):
        check(renewed)


def test_a_revoked_issuer_vouches_for_nobody():
    roster = msgspec.structs.replace(MESH.roster, revoked=(MESH.issuer.id,))
    with pytest.raises(RemoteProtocolError, match="^revoked key$"):
        check(MESH.valid.certificate, roster=roster)


def test_an_issuer_that_the_roster_does_not_name_is_unknown():
    rogue = Identity(b"r" * 32)
    with pytest.raises(RemoteProtocolError, match="^unknown issuer$"):
        check(issue(rogue, MESH.mesh_id, certificate(issuer=rogue.id)))


def test_a_member_cannot_issue_in_the_issuers_name():
    forged = seal(MESH.valid.identity, "certificate", MESH.mesh_id, pack(certificate()))
    with pytest.raises(RemoteProtocolError, match="signed by another key"):
        check(forged)


def test_a_certificate_of_another_mesh_is_refused():
    with pytest.raises(RemoteProtocolError, match="bad signature"):
        check(MESH.foreign.certificate)
    elsewhere = issue(MESH.issuer, MESH.foreign_mesh_id, certificate())
    with pytest.raises(RemoteProtocolError, match="bad signature"):
        check(elsewhere)


def test_something_else_that_the_issuer_signed_is_no_certificate():
    with pytest.raises(RemoteProtocolError, match="not of type certificate"):
        check(seal(MESH.issuer, "alert", MESH.mesh_id, pack(certificate())))


def test_a_node_key_of_small_order_is_refused():
    with pytest.raises(RemoteProtocolError, match="small order"):
        check(issue(MESH.issuer, MESH.mesh_id, certificate(node=(1).to_bytes(32, "little"))))


def test_issuing_in_anothers_name_is_our_bug():
    with pytest.raises(LocalProtocolError):
        issue(NODE, MESH.mesh_id, certificate())


BAD = {
    "short node": {"node": b"x"},
    "short issuer": {"issuer": b"x"},
    "empty name": {"name": ""},
    "long name": {"name": "a" * 64},
    "upper-case name": {"name": "Edge"},
    "newline in name": {"name": "edge\n"},
    "no roles": {"roles": ()},
    "unknown role": {"roles": ("member", "root")},
    "role twice": {"roles": ("member", "member")},
    "too many labels": {"labels": tuple((f"k{n}", "") for n in range(MAX_LABELS + 1))},
    "label twice": {"labels": (("zone", "a"), ("zone", "b"))},
    "bad label name": {"labels": (("Zone", "a"),)},
    "escape in a label": {"labels": (("zone", "\x1b[2J"),)},
    "labels too long together": {"labels": tuple((f"k{n}", "v" * 128) for n in range(5))},
    "long label": {"labels": (("zone", "v" * 129),)},
    "ends before it begins": {"not_after_ms": WALL_MS - 1000},
    "negative time": {"not_before_ms": -1},
    "time beyond JSON": {"not_after_ms": 2**53 + 1},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_bad_fields_are_one_clear_line_here_and_malformed_from_outside(changes):
    with pytest.raises(ValueError) as caught:
        certificate(**changes)
    assert str(caught.value)
    assert "\n" not in str(caught.value)
    fields = msgspec.structs.asdict(certificate()) | changes
    with pytest.raises(RemoteProtocolError, match="^malformed certificate$"):
        check(seal(MESH.issuer, "certificate", MESH.mesh_id, pack(list(fields.values()))))


def test_has():
    assert certificate().has("actor")
    assert not certificate().has("operator")
