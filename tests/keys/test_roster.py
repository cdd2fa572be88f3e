"""Rosters: the chain of trust from the mesh id down, and everything that must break it."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys import roster as module
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import LocalProtocolError, Refused, RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import (
    MAX_ANCHOR_BYTES,
    MAX_CHAIN,
    MAX_ISSUERS,
    MAX_OPERATORS,
    MAX_REVOKED,
    MAX_ROOTS,
    MAX_ROSTER_BYTES,
    MAX_VOTERS,
    Issuer,
    Roster,
    SignedRoster,
    check_chain,
    mesh_id_of,
    newer,
    read_roster,
    sign_roster,
)

ROOTS = [Identity(bytes([n]) * 32) for n in range(1, 6)]
ISSUER = Issuer(Identity(b"i" * 32).id, b"anchor")


def roster(number: int = 1, roots=ROOTS[:1], threshold: int = 1, **changes) -> Roster:
    fields = {
        "number": number, "epoch": 1, "roots": tuple(root.id for root in roots), "threshold": threshold, "voters": (b"v" * 32,),
        "issuers": (ISSUER,), "operators": (), "revoked": (), "lease_ms": 15_000, "rho_ppm": 1000,
    }  # fmt: skip
    return Roster(**(fields | changes))


FIRST = sign_roster(roster(), None, ROOTS[0])
MESH_ID = mesh_id_of(FIRST)


def refuse(chain, match, mesh_id=MESH_ID):
    with pytest.raises(RemoteProtocolError, match=match):
        check_chain(chain, mesh_id)


def test_a_first_roster_alone():
    assert check_chain([FIRST], MESH_ID) == roster() == read_roster(FIRST)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 2), st.booleans()), max_size=6))
def test_every_chain_that_keeps_the_rules_is_accepted(steps):
    chain, current, keys = [FIRST], roster(), ROOTS[:1]
    for number_step, epoch_step, change_root in steps:
        following = ROOTS[1:2] if change_root else keys
        current = roster(current.number + number_step, following, epoch=current.epoch + epoch_step)
        chain.append(sign_roster(current, MESH_ID, *keys))
        keys = following
    assert check_chain(chain, MESH_ID) == current


def test_another_mesh_id_is_refused():
    refuse([FIRST], "another mesh", b"x" * 32)
    other = sign_roster(roster(rho_ppm=2), None, ROOTS[0])
    assert mesh_id_of(other) != MESH_ID
    refuse([other], "another mesh")


def test_the_first_must_be_signed_by_its_own_roots():
    body = msgspec.msgpack.decode(FIRST)[0]
    signature = ROOTS[1].sign("roster", MESH_ID, body)
    refuse([pack([body, []])], "not signed by enough")
    refuse([pack([body, [[ROOTS[1].id, signature]]])], "not signed by enough")
    refuse([pack([body, [[ROOTS[0].id, signature]]])], "not signed by enough")


def test_a_successor_must_be_signed_by_its_predecessors_roots():
    usurped = sign_roster(roster(2, ROOTS[1:2]), MESH_ID, ROOTS[1])
    refuse([FIRST, usurped], "not signed by enough")
    handed_over = sign_roster(roster(2, ROOTS[1:2]), MESH_ID, ROOTS[0])
    by_old_root = sign_roster(roster(3), MESH_ID, ROOTS[0])
    assert check_chain([FIRST, handed_over], MESH_ID).number == 2
    refuse([FIRST, handed_over, by_old_root], "not signed by enough")


def test_threshold_counts_distinct_roots_of_the_predecessor():
    first = sign_roster(roster(roots=ROOTS[:3], threshold=2), None, ROOTS[0], ROOTS[2])
    mesh_id = mesh_id_of(first)
    following = roster(2, ROOTS[:3], 2)
    assert check_chain([first, sign_roster(following, mesh_id, ROOTS[1], ROOTS[2])], mesh_id) == following
    refuse([first, sign_roster(following, mesh_id, ROOTS[1])], "not signed by enough", mesh_id)
    refuse([first, sign_roster(following, mesh_id, ROOTS[1], ROOTS[4])], "not signed by enough", mesh_id)
    body = pack(following)
    twice = [ROOTS[1].id, ROOTS[1].sign("roster", mesh_id, body)]
    refuse([first, pack([body, [twice, twice]])], "malformed signed roster", mesh_id)
    # A stranger's signature beside enough good ones does no harm: a change of roots is signed by old and new.
    assert check_chain([first, sign_roster(following, mesh_id, ROOTS[0], ROOTS[1], ROOTS[4])], mesh_id) == following


def test_numbers_rise_and_epochs_never_fall():
    second = sign_roster(roster(2, epoch=5), MESH_ID, ROOTS[0])
    for number in (1, 2):
        refuse([FIRST, second, sign_roster(roster(number, epoch=5), MESH_ID, ROOTS[0])], "number does not rise")
    refuse([FIRST, second, sign_roster(roster(3, epoch=4), MESH_ID, ROOTS[0])], "epoch falls")


def test_a_roster_of_another_mesh_does_not_fit_in():
    elsewhere = sign_roster(roster(2), b"x" * 32, ROOTS[0])
    refuse([FIRST, elsewhere], "not signed by enough")


def test_the_chain_is_bounded_and_not_empty():
    refuse([], "wrong length")
    refuse([FIRST] * (MAX_CHAIN + 1), "wrong length")


def test_every_flipped_bit_and_truncation_is_refused():
    for bit in range(len(FIRST) * 8):
        flipped = bytearray(FIRST)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(RemoteProtocolError):
            check_chain([bytes(flipped)], MESH_ID)
    for size in range(len(FIRST)):
        with pytest.raises(RemoteProtocolError):
            check_chain([FIRST[:size]], MESH_ID)


def test_newer_refuses_what_is_not_newer_as_a_normal_no():
    current = roster(5)
    for number in (1, 4, 5):
        answer = newer(current, sign_roster(roster(number), MESH_ID, ROOTS[0]), MESH_ID)
        assert isinstance(answer, Refused)
        assert str(number) in answer.reason


def test_newer_takes_a_signed_successor_and_nothing_else():
    current = roster(5, epoch=3)
    assert newer(current, sign_roster(roster(9, epoch=3), MESH_ID, ROOTS[0]), MESH_ID) == roster(9, epoch=3)
    with pytest.raises(RemoteProtocolError, match="not signed by enough"):
        newer(current, sign_roster(roster(9, epoch=3), MESH_ID, ROOTS[1]), MESH_ID)
    with pytest.raises(RemoteProtocolError, match="epoch falls"):
        newer(current, sign_roster(roster(9, epoch=2), MESH_ID, ROOTS[0]), MESH_ID)
    with pytest.raises(RemoteProtocolError, match="malformed"):
        newer(current, b"junk", MESH_ID)


def test_lookups():
    made = roster(revoked=(b"r" * 32,))
    assert made.is_revoked(b"r" * 32)
    assert not made.is_revoked(b"v" * 32)
    assert made.issuer(ISSUER.key) == ISSUER
    assert made.issuer(b"v" * 32) is None


def ids(count: int) -> tuple[bytes, ...]:
    return tuple(number.to_bytes(32, "big") for number in range(count))


BAD = {
    "negative number": {"number": -1},
    "number beyond JSON": {"number": 2**53},
    "negative epoch": {"epoch": -1},
    "no roots": {"roots": ()},
    "threshold zero": {"threshold": 0},
    "threshold beyond the roots": {"threshold": 2},
    "a root of small order": {"roots": ((1).to_bytes(32, "little"),)},
    "root twice": {"roots": (ROOTS[0].id, ROOTS[0].id)},
    "a revoked root": {"revoked": (ROOTS[0].id,)},
    "short voter": {"voters": (b"v",)},
    "voter twice": {"voters": (b"v" * 32, b"v" * 32)},
    "too many voters": {"voters": ids(MAX_VOTERS + 1)},
    "issuer twice": {"issuers": (ISSUER, ISSUER)},
    "too many operators": {"operators": ids(MAX_OPERATORS + 1)},
    "too many revoked": {"revoked": ids(MAX_REVOKED + 1)},
    "lease too short": {"lease_ms": 99},
    "lease too long": {"lease_ms": 3_600_001},
    "clocks too wild": {"rho_ppm": 500_001},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD.keys())
def test_fields_out_of_bounds(changes):
    with pytest.raises(ValueError, match="^roster: "):
        msgspec.structs.replace(roster(), **changes)
    body = pack(list((msgspec.structs.asdict(roster()) | changes).values()))
    with pytest.raises(RemoteProtocolError, match="^malformed roster$"):
        read_roster(pack([body, []]))


@pytest.mark.parametrize(
    ("key", "anchor"), [(b"k", b"a"), ((1).to_bytes(32, "little"), b"a"), (ISSUER.key, b""), (ISSUER.key, b"a" * 2049)]
)
def test_a_bad_issuer(key, anchor):
    with pytest.raises(ValueError, match="^roster: "):
        Issuer(key, anchor)


def test_the_largest_roster_fits_in_its_limit():
    rng = random.Random(1)
    keys = [Identity(rng.randbytes(32)) for _ in range(MAX_ROOTS + MAX_ISSUERS)]
    largest = roster(
        2**53 - 1,
        keys[:MAX_ROOTS],
        MAX_ROOTS,
        voters=ids(MAX_VOTERS),
        issuers=tuple(Issuer(key.id, b"a" * MAX_ANCHOR_BYTES) for key in keys[MAX_ROOTS:]),
        operators=ids(MAX_OPERATORS),
        revoked=ids(MAX_REVOKED),
    )
    data = sign_roster(largest, None, *keys[:MAX_ROOTS])
    assert len(data) <= MAX_ROSTER_BYTES
    assert check_chain([data], mesh_id_of(data)) == largest


def test_signing_without_roots_or_twice_is_our_bug():
    for roots in ((), (ROOTS[0], ROOTS[0])):
        with pytest.raises(LocalProtocolError):
            sign_roster(roster(), None, *roots)


def test_strangers_signatures_cost_no_verification(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "verify", lambda *arguments: calls.append(arguments) or True)
    body = pack(roster())
    strangers = tuple((bytes([n]) * 32, b"s" * 64) for n in range(100, 100 + MAX_ROOTS))
    refuse([pack(SignedRoster(body, strangers))], "not signed by enough")
    assert calls == []
