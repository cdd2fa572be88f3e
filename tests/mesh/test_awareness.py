"""The local health multiplier: bounded both ways, and time-outs follow it (Lifeguard, section IV-A)."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloudisense.mesh.awareness import Awareness


class AwarenessMachine(RuleBasedStateMachine):
    @initialize(limit=st.integers(1, 8))
    def begin(self, limit: int) -> None:
        self.awareness, self.score = Awareness(limit), 0

    @rule(by=st.integers(0, 5))
    def worse(self, by: int) -> None:
        self.awareness.worse(by)
        self.score = min(self.awareness.limit, self.score + by)

    @rule()
    def better(self) -> None:
        self.awareness.better()
        self.score = max(0, self.score - 1)

    @invariant()
    def as_the_model(self) -> None:
        assert self.awareness.score == self.score
        assert 0 <= self.awareness.score <= self.awareness.limit
        assert self.awareness.scale(250) == 250 * (self.score + 1)


TestAwareness = AwarenessMachine.TestCase


@given(st.lists(st.integers(0, 5), max_size=30))
def test_as_many_good_probes_as_the_limit_make_it_well(troubles: list[int]) -> None:
    awareness = Awareness(8)
    for by in troubles:
        awareness.worse(by)
    for _ in range(8):
        awareness.better()
    assert awareness.scale(250) == 250
