"""Who is probed when, and whose answer counts."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.mesh.probe import Prober


def prober(seed: int = 1) -> Prober:
    return Prober(random.Random(seed))


@given(st.integers(0, 2**32), st.sets(st.binary(min_size=2, max_size=2), min_size=1, max_size=20), st.integers(1, 5))
def test_each_member_is_probed_once_a_round(seed: int, members: set[bytes], rounds: int) -> None:
    probes = prober(seed)
    for _ in range(rounds):
        chosen = [probes.next_target(sorted(members)) for _ in members]
        assert sorted(node for node in chosen if node) == sorted(members)


@given(st.integers(0, 2**32), st.lists(st.sets(st.sampled_from([b"a", b"b", b"c", b"d"])), max_size=40))
def test_only_members_of_the_moment_and_never_two_rounds_without_one(seed: int, views: list[set[bytes]]) -> None:
    """Bounded detection (SWIM section 4.3): whoever stays is probed within 2n - 1 periods of any moment."""
    probes, waited = prober(seed), {}
    for view in views:
        target = probes.next_target(sorted(view))
        assert target in view if view else target is None
        waited = {node: 0 if node == target else waited.get(node, 0) + 1 for node in view}
        assert all(periods < 2 * 4 for periods in waited.values())


def test_rounds_differ_in_order() -> None:
    members = [bytes([i]) for i in range(8)]
    probes = prober()
    assert len({tuple(probes.next_target(members) for _ in members) for _ in range(10)}) > 1


def test_who_is_being_probed_is_not_probed_again() -> None:
    probes = prober()
    probes.start(b"b", 1)
    assert probes.probing(b"b")
    assert {probes.next_target([b"a", b"b"]) for _ in range(4)} <= {b"a", None}
    probes.start(b"c", 1, relayed_for=(b"a", 7))
    assert not probes.probing(b"c"), "what we relay is another's probe"


def test_only_the_target_or_a_relay_that_was_asked_may_answer() -> None:
    probes = prober()
    probe = probes.start(b"target", 1)
    assert probes.answered(probe.sequence, b"liar") is None
    probe.asked = (b"relay",)
    assert probes.answered(probe.sequence, b"liar") is None
    assert probes.answered(probe.sequence + 1, b"target") is None
    assert probes.answered(probe.sequence, b"relay") is probe
    assert probes.answered(probe.sequence, b"relay") is None, "each probe ends once"
    other = probes.start(b"target", 1)
    assert other.sequence != probe.sequence
    assert probes.answered(other.sequence, b"target") is other
    assert not probes.open
