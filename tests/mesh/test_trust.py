"""The roster that holds: only ever forward, only along what the root signed."""

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.roster import sign_roster
from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.trust import MAX_CHAIN, Trust

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


TestTrust = TrustMachine.TestCase
TestTrust.settings = settings(max_examples=25)
