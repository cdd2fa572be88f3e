"""An operator's quick revocation: seven days, everywhere, and no more than an operator may."""

import msgspec
import pytest

from cloudisense.keys import issue_for_tests
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.handover import seal_handover, seal_succession
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer
from cloudisense.keys.succession import revoking, settling, with_issuer, with_roots
from cloudisense.keys.testing import WALL_MS, HashRng
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.revocation import MAX_KEPT, MAX_REPLACED, REPLACED_MS, VALID_MS, seal_revocation
from cloudisense.mesh.trust import Trust

MESH = issue_for_tests(1)
OPERATOR = Identity.generate(HashRng("operator"))
BAD = MESH.member("bad").identity.id
CHAIN = MESH.sign(msgspec.structs.replace(MESH.roster, number=3, operators=(OPERATOR.id,)))


def at(ms: int, trusted: bool = True) -> Instant:
    return Instant(1, ms * NS_PER_MS, trusted)


def revoked(trust: Trust, ms: int, trusted: bool = True) -> bool:
    trust.refresh(at(ms, trusted))
    return trust.roster.is_revoked(BAD)


def quick(ms: int = WALL_MS, node: bytes = BAD, operator: Identity = OPERATOR, mesh_id: bytes = MESH.mesh_id) -> bytes:
    return seal_revocation(operator, mesh_id, node, ms)


def test_it_holds_for_seven_days_and_then_ends_by_itself() -> None:
    trust = Trust(CHAIN)
    assert trust.revoke(quick(), at(WALL_MS)) and not trust.revoke(quick(), at(WALL_MS))
    assert revoked(trust, WALL_MS) and trust.version == 1
    assert revoked(trust, WALL_MS + VALID_MS - 1) and trust.version == 1
    assert not revoked(trust, WALL_MS + VALID_MS) and trust.version == 2
    assert revoked(trust, WALL_MS + VALID_MS, trusted=False), "without a clock nobody is let in again"


def test_a_later_one_prolongs_and_an_old_one_never_does() -> None:
    trust = Trust(CHAIN)
    later = WALL_MS + 3 * 86_400_000
    assert trust.revoke(quick(later), at(later))
    assert not trust.revoke(quick(WALL_MS), at(later))
    assert revoked(trust, WALL_MS + VALID_MS)
    assert trust.revocations.claims() == (quick(later),)


def test_a_roster_confirms_it_and_a_removed_operators_word_ends() -> None:
    for change, out in ((lambda roster: revoking(roster, BAD), True), (lambda roster: revoking(roster, OPERATOR.id), False)):
        trust = Trust(CHAIN)
        trust.revoke(quick(), at(WALL_MS))
        assert revoked(trust, WALL_MS)
        assert trust.offer((*CHAIN, MESH.sign(change(trust.signed))[-1]))
        assert revoked(trust, WALL_MS + VALID_MS) is out and trust.revocations.claims() == ()


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (quick(operator=MESH.valid.identity), "no operator"),
        (quick(node=MESH.issuer.id), "issuer or root"),
        (quick(node=MESH.root.id), "issuer or root"),
        (quick(WALL_MS + 86_400_000), "future"),
        (quick(mesh_id=MESH.foreign_mesh_id), "bad signature"),
        (quick()[:-1] + bytes([quick()[-1] ^ 1]), "signature"),
    ],
)
def test_who_may_not(claim: bytes, why: str) -> None:
    trust = Trust(CHAIN)
    with pytest.raises(RemoteProtocolError, match=why):
        trust.revoke(claim, at(WALL_MS))
    assert not revoked(trust, WALL_MS) and trust.version == 0


def test_they_are_bounded() -> None:
    trust = Trust(CHAIN)
    for i in range(MAX_KEPT):
        assert trust.revoke(quick(node=bytes([i + 1]) * 32), at(WALL_MS))
    with pytest.raises(RemoteProtocolError, match="too many"):
        trust.revoke(quick(), at(WALL_MS))
    assert trust.revoke(quick(WALL_MS + 1, node=b"\x01" * 32), at(WALL_MS)), "one that is known can still be renewed"


def test_an_older_roster_never_comes_back() -> None:
    longer = (*CHAIN, MESH.sign(with_roots(Trust(CHAIN).signed, [OPERATOR.id], 1))[-1])
    trust = Trust(longer)
    assert not trust.offer(CHAIN) and not trust.offer(CHAIN[:1]) and trust.chain == longer
    with pytest.raises(RemoteProtocolError, match="rival"):
        trust.offer((*CHAIN, MESH.sign(revoking(Trust(CHAIN).signed, BAD))[-1]))


# -- keys that were replaced -------------------------------------------------------------------------------------------

OLD, NEW, OTHER = (Identity.generate(HashRng(name)) for name in ("old", "new", "other"))
SECOND = Identity.generate(HashRng("second issuer"))


def succession(
    ms: int = WALL_MS, old: Identity = OLD, new: Identity = NEW, issuer: Identity = MESH.issuer, mesh_id: bytes = MESH.mesh_id
) -> bytes:
    return seal_succession(issuer, mesh_id, seal_handover(old, mesh_id, new.id), ms)


def test_a_replaced_key_is_out_until_its_certificates_are_of_no_use() -> None:
    trust = Trust(CHAIN)
    assert trust.revoke(succession(), at(WALL_MS)) and not trust.revoke(succession(), at(WALL_MS))
    for ms, out in ((WALL_MS, True), (WALL_MS + REPLACED_MS - 1, True), (WALL_MS + REPLACED_MS, False)):
        trust.refresh(at(ms))
        assert trust.roster.is_revoked(OLD.id) is out and not trust.roster.is_revoked(NEW.id)
    assert trust.revocations.claims() == ()
    assert not trust.revoke(succession(), at(WALL_MS + REPLACED_MS)), "and is not learnt again"


def test_of_two_successors_the_first_holds_whichever_is_heard_first() -> None:
    early, late = succession(), succession(WALL_MS + 5, new=OTHER)
    for order in ((early, late), (late, early)):
        trust = Trust(CHAIN)
        for claim in order:
            trust.revoke(claim, at(WALL_MS))
        assert trust.revocations.replaced() == ((OLD.id, NEW.id),) and trust.revocations.claims() == (early,)


def test_what_an_issuer_bore_out_outlives_its_right_to_issue() -> None:
    """Else the thief of a retired key could wait for the issuer to go."""
    anchor = MESH.roster.issuers[0].anchor
    chain = (*CHAIN, MESH.sign(with_issuer(Trust(CHAIN).signed, Issuer(SECOND.id, anchor)))[-1])
    after = (*chain, MESH.sign(revoking(Trust(chain).signed, SECOND.id))[-1])
    for trust in (Trust(chain), Trust(after)):
        assert trust.revoke(succession(issuer=SECOND), at(WALL_MS))
        trust.offer(after)
        trust.refresh(at(WALL_MS))
        assert trust.roster.is_revoked(OLD.id)


def test_a_roster_settles_it() -> None:
    trust = Trust(CHAIN)
    trust.revoke(succession(), at(WALL_MS))
    assert trust.offer((*CHAIN, MESH.sign(settling(trust.signed, trust.revocations.replaced(), ()))[-1]))
    trust.refresh(at(WALL_MS + REPLACED_MS))
    assert trust.roster.is_revoked(OLD.id) and trust.revocations.claims() == ()
    assert not trust.revoke(succession(), at(WALL_MS))


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (succession(issuer=OTHER), "no issuer"),
        (succession(issuer=OPERATOR), "no issuer"),
        (succession(old=MESH.issuer), "issuer or root"),
        (succession(old=MESH.root), "issuer or root"),
        (succession(WALL_MS + 86_400_000), "future"),
        (succession(mesh_id=MESH.foreign_mesh_id), "bad signature"),
        (seal_succession(MESH.issuer, MESH.mesh_id, seal_handover(OLD, MESH.foreign_mesh_id, NEW.id), WALL_MS), "bad signature"),
    ],
)
def test_successions_that_are_none(claim: bytes, why: str) -> None:
    trust = Trust(CHAIN)
    with pytest.raises(RemoteProtocolError, match=why):
        trust.revoke(claim, at(WALL_MS))
    assert not trust.refresh(at(WALL_MS)) and trust.revocations.claims() == ()


def test_replaced_keys_are_bounded() -> None:
    trust = Trust(CHAIN)
    for i in range(MAX_REPLACED):
        assert trust.revoke(succession(old=Identity(i.to_bytes(32, "big"))), at(WALL_MS))
    with pytest.raises(RemoteProtocolError, match="too many"):
        trust.revoke(succession(), at(WALL_MS))
    assert trust.revoke(quick(), at(WALL_MS)), "and take no room from an operator"
