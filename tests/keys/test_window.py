"""The replay window against the obvious model: a set of all counters ever accepted."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.keys.window import WIDTH, ReplayWindow

near = st.integers(0, 3 * WIDTH)
counters = near | st.sampled_from([0, 1, WIDTH - 1, WIDTH, WIDTH + 1, 2**63, 2**64 - 1])


@given(st.lists(counters, max_size=120))
def test_fresh_means_never_accepted_and_not_too_old(arrivals):
    window, accepted = ReplayWindow(), set()
    for counter in arrivals:
        expected = counter not in accepted and (not accepted or counter > max(accepted) - WIDTH)
        assert window.is_fresh(counter) == expected
        if expected:
            window.accept(counter)
            accepted.add(counter)
    assert window.highest == max(accepted, default=-1)


@given(st.integers(0, 2**64 - 1), counters)
def test_a_window_that_goes_on_has_seen_everything_before(highest, counter):
    assert ReplayWindow(highest).is_fresh(counter) == (counter > highest)


def test_asking_changes_nothing():
    window = ReplayWindow()
    assert window.is_fresh(7)
    assert window.is_fresh(7)
    window.accept(7)
    assert not window.is_fresh(7)


def test_the_edge_of_the_window():
    window = ReplayWindow()
    window.accept(WIDTH)
    assert window.is_fresh(1)
    assert not window.is_fresh(0)


def test_a_jump_costs_no_memory():
    window = ReplayWindow()
    window.accept(0)
    window.accept(2**64 - 1)  # a shift by this much would be a MemoryError
    assert not window.is_fresh(0)
    assert window.is_fresh(2**64 - 2)
