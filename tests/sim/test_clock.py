"""Virtual time."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.sim.clock import EPOCH_WALL_NS, Clock


@given(st.lists(st.integers(0, 50), max_size=30))
def test_in_order_of_time_then_of_planning(times: list[int]) -> None:
    clock, ran = Clock(), []
    for i, at in enumerate(times):
        clock.at(at, lambda at=at, i=i: ran.append((at, i, clock.now_ns)))
    assert not clock.run(100, lambda: False)
    assert ran == [(at, i, at) for at, i in sorted((at, i) for i, at in enumerate(times))]
    assert (clock.now_ns, clock.events) == (100, len(times))


def test_what_is_planned_for_the_past_comes_now() -> None:
    clock, ran = Clock(), []
    clock.run(100, lambda: False)
    clock.at(5, lambda: ran.append(clock.now_ns))
    clock.after(0, lambda: ran.append(clock.now_ns))
    clock.run(100, lambda: False)
    assert ran == [100, 100]


def test_it_stops_where_it_is_told() -> None:
    clock, ran = Clock(), []
    for at in (10, 20, 30):
        clock.at(at, lambda: ran.append(clock.now_ns))
    assert clock.run(100, lambda: len(ran) == 2)
    assert (ran, clock.now_ns) == ([10, 20], 20)
    assert not clock.run(25, lambda: False)
    assert clock.now_ns == 25
    instant = clock.instant()
    assert (instant.boot_ns, instant.wall_ns) == (25, EPOCH_WALL_NS + 25)
