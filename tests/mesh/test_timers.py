"""Timers against the plainest model: a list that is searched."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.mesh.timers import Timers

NAMES = st.sampled_from(["a", "b", ("c", 1), ("c", 2)])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), NAMES, st.integers(0, 30)),
        st.tuples(st.just("cancel"), NAMES, st.just(0)),
        st.tuples(st.just("due"), st.just("a"), st.integers(0, 40)),
    ),
    max_size=60,
)


@given(STEPS)
def test_timers_do_what_a_list_would(steps: list[tuple[str, object, int]]) -> None:
    timers, model = Timers(), []
    for word, name, at in steps:
        if word == "set":
            timers.set(name, at)
            model = [*(item for item in model if item[1] != name), (at, name)]
        elif word == "cancel":
            timers.cancel(name)
            model = [item for item in model if item[1] != name]
        else:
            first = min(model, key=lambda item: item[0], default=None)
            expected = first if first is not None and first[0] <= at else None
            assert timers.pop_due(at) == (expected[1] if expected else None)
            model = [item for item in model if item != expected]
        assert timers.next() == min((item[0] for item in model), default=None)
        assert all((name in timers) == any(item[1] == name for item in model) for name in ("a", "b", ("c", 1), ("c", 2)))


def test_equal_deadlines_come_in_the_order_of_setting_whatever_their_names() -> None:
    timers = Timers()
    for name in ("z", b"bytes", ("tuple", 1), "a"):
        timers.set(name, 5)
    timers.set("z", 5)
    assert [timers.pop_due(5) for _ in range(5)] == [b"bytes", ("tuple", 1), "a", "z", None]


def test_moving_one_name_for_ever_takes_no_room() -> None:
    timers = Timers()
    for i in range(10_000):
        timers.set("far", 1_000_000 + i)
        timers.set(("later", i % 10), 2_000_000 + i)
    assert len(timers._heap) <= 2 * 11 + 65
    assert timers.next() == 1_009_999
