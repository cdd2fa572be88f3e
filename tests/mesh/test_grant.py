"""Certificates, fences, and evidence against a voter that grants a round twice."""

import pytest

from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer, Roster, mesh_id_of, sign_roster
from cloudisense.keys.testing import HashRng, issue_for_tests
from cloudisense.mesh.epoch import Epochs
from cloudisense.mesh.fence import Fence, Pass
from cloudisense.mesh.grant import Equivocation, Grant, Watch, certificate_of, check_certificate, open_certificate, sign_grant
from cloudisense.mesh.instant import NS_PER_MS
from cloudisense.mesh.signatures import Envelopes
from cloudisense.mesh.token import Token

VOTERS = [Identity.generate(HashRng(f"grant test {i}")) for i in range(3)]
A, B = b"\xaa" * 32, b"\xbb" * 32
ROOT = Identity.generate(HashRng("grant root"))
IDS = tuple(voter.id for voter in VOTERS)
FIRST = Roster(1, 1, (ROOT.id,), 1, IDS, (Issuer(IDS[0], issue_for_tests(1).anchor),), (), (), 1000, 10_000)
CHAIN = [sign_roster(FIRST, None, ROOT)]
MESH = mesh_id_of(CHAIN[0])
EPOCHS = Epochs(CHAIN)
SIGNATURES = Envelopes(Identity.generate(HashRng("anybody")), MESH)


def grant(voter: int, token: Token, nonce: bytes = bytes(16), lease_ms: int = 1000, key: str = "db") -> bytes:
    return sign_grant(Envelopes(VOTERS[voter], MESH), Grant(key, token, lease_ms, nonce))


def certificate(*voters: int, token: Token, key: str = "db") -> bytes:
    return certificate_of({VOTERS[i].id: grant(i, token, key=key) for i in voters})


def test_a_certificate_needs_a_quorum_of_equal_grants_by_voters_that_count() -> None:
    token = Token(1, 1, A)
    good = certificate(0, 2, token=token)
    assert check_certificate(SIGNATURES, EPOCHS, good, lambda _: False).token == token
    stranger = sign_grant(SIGNATURES, Grant("db", token, 1000, bytes(16)))
    bad = {
        "one voter": certificate(0, token=token),
        "none": certificate_of({}),
        "twice the same": certificate_of({b"a": grant(0, token), b"b": grant(0, token)}),
        "two requests": certificate_of({IDS[0]: grant(0, token), IDS[1]: grant(1, token, b"\x01" * 16)}),
        "two holders": certificate_of({IDS[0]: grant(0, token), IDS[1]: grant(1, Token(1, 1, B))}),
        "a stranger": certificate_of({IDS[0]: grant(0, token), SIGNATURES.id: stranger}),
        "another time": certificate_of({IDS[i]: grant(i, token, lease_ms=2000) for i in range(2)}),
        "another epoch": certificate(0, 1, token=Token(7, 1, A)),
        "tampered": good[:-1] + bytes([good[-1] ^ 1]),
    }
    for what, data in bad.items():
        with pytest.raises(RemoteProtocolError):
            check_certificate(SIGNATURES, EPOCHS, data, lambda _: False)
            pytest.fail(what)
    with pytest.raises(RemoteProtocolError, match="quorum"):
        check_certificate(SIGNATURES, EPOCHS, good, lambda key: key == IDS[0])


def admit(fence: Fence, token: Token, key: str = "db", left_ms: int = 500, holder: bytes | None = None) -> Pass | Refused:
    return fence.admit(key, holder or token.holder, certificate(0, 1, token=token), left_ms * NS_PER_MS)


def test_the_fence_admits_no_lower_token_over_any_restart() -> None:
    fence = Fence(SIGNATURES, EPOCHS, {})
    old = admit(fence, Token(1, 5, A))
    assert isinstance(old, Pass) and fence.confirm(old)
    disk = {str(put.row["key"]): bytes(put.row["value"]) for put in old.rows if isinstance(put.row["value"], bytes)}
    fence = Fence(SIGNATURES, EPOCHS, disk)
    assert isinstance(admit(fence, Token(1, 4, B)), Refused)
    assert isinstance(admit(fence, Token(1, 5, A)), Pass), "the same may act again"
    new = admit(fence, Token(1, 6, B))
    assert isinstance(new, Pass) and not fence.confirm(old), "who slept since must not go on"


def test_the_fence_refuses() -> None:
    fence, token = Fence(SIGNATURES, EPOCHS, {}), Token(1, 5, A)
    for refused in (
        admit(fence, token, key="other"),
        admit(fence, token, holder=B),
        admit(fence, token, left_ms=0),
        admit(fence, token, left_ms=1000),
        fence.admit("db", A, b"junk", 1),
    ):
        assert isinstance(refused, Refused)
    assert isinstance(admit(fence, Token(1, 1, A)), Pass), "a refusal changes nothing"


def test_two_grants_for_one_round_convict_the_voter_and_nobody_else() -> None:
    watch = Watch(SIGNATURES)
    assert watch.see(certificate(0, 1, token=Token(1, 5, A))) == []
    assert watch.see(certificate(0, 1, token=Token(1, 5, A))) == []
    assert watch.see(certificate(1, 2, token=Token(1, 6, B))) == []
    assert watch.see(certificate(1, 2, token=Token(1, 5, B), key="other")) == []
    evidence = watch.see(certificate(1, 2, token=Token(1, 5, B)))
    assert [found.check(SIGNATURES) for found in evidence] == [IDS[1]]


def test_false_evidence_proves_nothing() -> None:
    pairs = [
        (grant(0, Token(1, 5, A)), grant(1, Token(1, 5, B))),
        (grant(0, Token(1, 5, A)), grant(0, Token(1, 6, B))),
        (grant(0, Token(1, 5, A)), grant(0, Token(2, 5, B))),
        (grant(0, Token(1, 5, A)), grant(0, Token(1, 5, B), key="other")),
        (grant(0, Token(1, 5, A)), grant(0, Token(1, 5, A), b"\x01" * 16)),
    ]
    for first, second in pairs:
        with pytest.raises(RemoteProtocolError, match="no evidence"):
            Equivocation(first, second).check(SIGNATURES)


def test_a_certificate_reads_back() -> None:
    assert sorted(open_certificate(SIGNATURES, certificate(0, 1, token=Token(1, 1, A)))) == sorted(IDS[:2])
