"""The roster that holds: only ever forward, only along what the root signed."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import sign_roster
from cloudisense.keys.succession import upholding, with_roots
from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.trust import MAX_CHAIN, Trust, roster_hash

KEYS = issue_for_tests(1)


def longer(chain: tuple[bytes, ...], number: int, revoked: bytes) -> tuple[bytes, ...]:
    roster = msgspec.structs.replace(KEYS.roster, number=number, revoked=(*KEYS.roster.revoked, revoked))
    return (*chain, sign_roster(roster, KEYS.mesh_id, KEYS.root))


CHAIN = KEYS.chain
for _number in range(3, 9):
    CHAIN = longer(CHAIN, _number, bytes([_number]) * 32)


class TrustMachine(RuleBasedStateMachine):
    @initialize(length=st.integers(1, len(CHAIN)))
    def begin(self, length: int) -> None:
        self.trust, self.length = Trust(CHAIN[:length]), length

    @rule(length=st.integers(1, len(CHAIN)))
    def true_chain(self, length: int) -> None:
        assert self.trust.offer(CHAIN[:length]) == (length > self.length)
        self.length = max(self.length, length)

    @rule(at=st.integers(0, len(CHAIN) - 1), length=st.integers(1, len(CHAIN)))
    def damaged_chain(self, at: int, length: int) -> None:
        chain = list(CHAIN[:length])
        if at >= length:
            return
        chain[at] = chain[at][:-1] + bytes([chain[at][-1] ^ 1])
        if at < self.length or length > self.length:
            with pytest.raises(RemoteProtocolError):
                self.trust.offer(tuple(chain))

    @rule()
    def rival(self) -> None:
        if self.length >= 3:
            with pytest.raises(RemoteProtocolError, match="rival"):
                self.trust.offer(longer(CHAIN[: self.length - 1], self.length, b"\x77" * 32))

    @rule()
    def another_mesh(self) -> None:
        with pytest.raises(RemoteProtocolError):
            self.trust.offer(issue_for_tests(2).chain)

    @rule()
    def endless(self) -> None:
        with pytest.raises(RemoteProtocolError, match="too long"):
            self.trust.offer(CHAIN[:1] * (MAX_CHAIN + 1))

    @invariant()
    def never_back(self) -> None:
        if hasattr(self, "trust"):
            assert self.trust.chain == CHAIN[: self.length]
            assert self.trust.signed.number == self.length
            assert self.trust.mesh_id == KEYS.mesh_id


# -- two rosters beside each other -------------------------------------------------------------------------------------

X, Y = longer(CHAIN[:3], 4, b"\x77" * 32), longer(longer(CHAIN[:3], 4, b"\x66" * 32), 5, b"\x55" * 32)


def upheld(chain: tuple[bytes, ...], rival: tuple[bytes, ...], *roots: Identity) -> tuple[bytes, ...]:
    roster = upholding(Trust(chain).signed, Trust(rival).signed, roster_hash(rival[3]))
    return (*chain, sign_roster(roster, KEYS.mesh_id, *(roots or (KEYS.root,))))


def rivals() -> tuple[Trust, Trust]:
    x, y = Trust(X), Trust(Y)
    for trust, other in ((x, Y), (y, X), (x, Y)):
        with pytest.raises(RemoteProtocolError, match="rival roster"):
            trust.offer(other)
    assert (x.chain, x.rival, y.chain, y.rival) == (X, Y, Y, X), "an alarm, and no choice, however long the other is"
    return x, y


@pytest.mark.parametrize("held", ["x", "y"])
def test_a_person_upholds_one_and_all_revocations_of_both(held: str) -> None:
    x, y = rivals()
    chain, rival = (X, Y) if held == "x" else (Y, X)
    following = upheld(chain, rival)
    for trust in (x, y):
        assert trust.offer(following) and trust.chain == following and trust.rival == ()
        assert all(trust.signed.is_revoked(key * 32) for key in (b"\x77", b"\x55"))
        assert trust.signed.number == 6 and trust.signed.epoch == KEYS.roster.epoch + 1
        assert not trust.offer(rival) and trust.rival == (), "what is settled is no alarm any more"
        with pytest.raises(RemoteProtocolError, match="rival roster"):
            trust.offer(longer(CHAIN[:3], 9, b"\x12" * 32))


def test_what_decides_nothing() -> None:
    """Controls: ``_offer_other``. The root's signature; the number; and that the root was not rotated in between."""
    x, _ = rivals()
    new = Identity(b"r" * 32)
    rotated = (*CHAIN[:3], sign_roster(with_roots(Trust(CHAIN[:3]).signed, [new.id], 1), KEYS.mesh_id, KEYS.root))
    after = Trust(rotated)
    same = msgspec.structs.replace(Trust(X).signed, number=9, revoked=(*Trust(X).signed.revoked, roster_hash(rotated[3])))
    with pytest.raises(RemoteProtocolError, match="rival"):
        after.offer((*X, sign_roster(same, KEYS.mesh_id, KEYS.root)))  # by the root key that was given up
    assert after.chain == rotated
    with pytest.raises(ValueError, match="different root keys"):
        upholding(after.signed, Trust(X).signed, roster_hash(X[3]))
    low = msgspec.structs.replace(Trust(Y).signed, number=4, revoked=(*Trust(Y).signed.revoked, roster_hash(X[3])))
    for chain in ((*CHAIN[:3], sign_roster(low, KEYS.mesh_id, KEYS.root)), upheld(Y, X, new)):
        with pytest.raises(RemoteProtocolError):
            x.offer(chain)
        assert x.chain == X


def test_a_rival_by_nobody_is_no_alarm() -> None:
    x = Trust(X)
    forged = sign_roster(msgspec.structs.replace(x.signed, number=9), KEYS.mesh_id, Identity(b"m" * 32))
    with pytest.raises(RemoteProtocolError, match="not signed by enough roots"):
        x.offer((*CHAIN[:3], forged))
    assert x.rival == ()


def test_two_have_to_say_that_we_are_behind_or_the_only_one() -> None:
    trust, (a, b, c) = Trust(CHAIN[:3]), (b"a", b"b", b"c")
    trust.heard(a, 2**60)
    assert not trust.behind([]) and trust.behind([a]), "of one other, the one"
    assert not trust.behind([a, b]) and not trust.behind([a, b, c]), "one could lie"
    trust.heard(b, 4)
    assert trust.behind([a, b, c]) and not trust.behind([b, c]), "who is gone says nothing"
    assert trust.offer(CHAIN[:4])
    assert not trust.behind([b, a, c])


TestTrust = TrustMachine.TestCase
TestTrust.settings = settings(max_examples=25)
