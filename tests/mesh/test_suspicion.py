"""The bounds of a suspicion, and how many accusers a death needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.mesh.limits import Limits
from cloudisense.mesh.suspicion import accusers_needed, suspicion_ms

LIMITS = Limits()


def test_a_lone_accuser_waits_four_times_as_long_as_three_that_agree() -> None:
    assert [suspicion_ms(LIMITS, 5, accusers) for accusers in (1, 4, 9)] == [4_800, 1_200, 1_200]
    assert suspicion_ms(LIMITS, 2, 1) == 1_200, "two nodes: nobody could confirm, so nothing is gained by waiting"
    assert suspicion_ms(LIMITS, 1000, 4) == 3_600, "log10 of a thousand"


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_never_below_the_minimum_nor_above_the_maximum_and_falling_with_accusers(members: int, accusers: int) -> None:
    floor, wait, more = (suspicion_ms(LIMITS, members, n) for n in (10**6, accusers, accusers + 1))
    assert LIMITS.suspicion_ms <= floor <= more <= wait <= LIMITS.suspicion_max_mult * (floor + 1)


@pytest.mark.parametrize(("others", "needed"), [(0, 1), (1, 1), (2, 2), (3, 2), (1000, 2)])
def test_two_accusers_or_all_that_there_are(others: int, needed: int) -> None:
    assert accusers_needed(others) == needed
