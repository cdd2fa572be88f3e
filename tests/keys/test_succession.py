"""The next roster, made and signed by hand."""

import msgspec
import pytest

from cloudisense.keys import issue_for_tests
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer, SignedRoster, check_chain, read_roster, sign_roster
from cloudisense.keys.succession import (
    Draft,
    add_signatures,
    completed,
    draft,
    read_draft,
    revoking,
    signers,
    with_issuer,
    with_roots,
    with_voters,
)
from cloudisense.keys.testing import HashRng
from cloudisense.keys.tls import anchor

MESH = issue_for_tests(1)
VOTER = MESH.roster.voters[0]
OTHER = MESH.member("other").identity


def key(name: str) -> Identity:
    return Identity.generate(HashRng(name))


def test_a_revoked_voter_loses_its_vote_in_a_new_epoch() -> None:
    two = with_voters(MESH.roster, (VOTER, OTHER.id))
    out = revoking(two, OTHER.id)
    assert (two.number, two.epoch) == (MESH.roster.number + 1, MESH.roster.epoch + 1)
    assert (out.number, out.epoch, out.voters) == (two.number + 1, two.epoch + 1, (VOTER,)) and out.is_revoked(OTHER.id)
    assert revoking(MESH.roster, OTHER.id).epoch == MESH.roster.epoch, "no vote was lost, so the epoch stays"


@pytest.mark.parametrize(("who", "why"), [("issuer", "only issuer"), ("voter", "only voter"), ("root", "rotate"), ("revoked", "already")])
def test_what_must_not_be_revoked(who: str, why: str) -> None:
    keys = {"issuer": MESH.issuer.id, "voter": VOTER, "root": MESH.root.id, "revoked": MESH.revoked.identity.id}
    with pytest.raises(ValueError, match=why):
        revoking(MESH.roster, keys[who])


def test_a_revoked_key_never_votes_or_issues() -> None:
    revoked = MESH.revoked.identity
    with pytest.raises(ValueError, match="revoked"):
        with_voters(MESH.roster, (VOTER, revoked.id))
    with pytest.raises(ValueError, match="revoked"):
        with_issuer(MESH.roster, Issuer(revoked.id, anchor(revoked, 0, 10_000, 1)))


def test_two_of_three_roots_sign_one_after_the_other() -> None:
    roots = [key(f"root {i}") for i in range(3)]
    chain = MESH.sign(with_roots(MESH.roster, [root.id for root in roots], 2))
    bare = draft(chain, revoking(read_roster(chain[-1]), OTHER.id))
    assert signers(bare) == [] and completed(bare) is None
    one = add_signatures(bare, roots[0])
    assert completed(one) is None and completed(add_signatures(one, roots[0])) is None, "one root twice is one root"
    two = add_signatures(one, roots[2])
    whole = completed(two)
    assert whole is not None and signers(two) == sorted([roots[0].id, roots[2].id])
    assert check_chain(whole, MESH.mesh_id).is_revoked(OTHER.id)
    with pytest.raises(ValueError, match="not a root"):
        add_signatures(bare, MESH.root)


def test_a_changed_candidate_loses_its_signatures() -> None:
    signed = add_signatures(draft(MESH.chain, revoking(MESH.roster, OTHER.id)), MESH.root)
    found, _, _, candidate = read_draft(signed)
    inner = unpack(found.candidate, SignedRoster)
    forged = SignedRoster(pack(msgspec.structs.replace(candidate, operators=(OTHER.id,))), inner.signatures)
    changed = pack(Draft(found.chain, pack(forged)))
    assert signers(signed) == [MESH.root.id] and signers(changed) == [] and completed(changed) is None


def test_a_draft_must_follow_its_chain() -> None:
    stale = msgspec.structs.replace(MESH.roster, number=1)
    for data in (draft(MESH.chain, stale), draft((), MESH.roster), b"\x90", pack([[sign_roster(MESH.roster, None, MESH.root)], b""])):
        with pytest.raises(RemoteProtocolError):
            read_draft(data)
