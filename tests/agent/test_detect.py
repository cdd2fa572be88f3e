"""Two thresholds and a duration."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.detect import RULES, Detector, Rule
from cloudisense.agent.events import FileSystem
from cloudisense.mesh.instant import NS_PER_MS, Instant

RULE = Rule("disk_full", "bytes", raise_at=0.9, clear_at=0.8, hold_ms=200)


def reading(share: float) -> FileSystem:
    return FileSystem(1000, int(share * 1000), 100, 1)


def play(*readings: tuple[int, float]) -> list[tuple[int, str]]:
    detector = Detector(RULE, "/vol")
    changes = [(ms, detector.update(reading(share), Instant(ms * NS_PER_MS, 0))) for ms, share in readings]
    return [(ms, change) for ms, change in changes if change is not None]


@pytest.mark.parametrize(
    ("readings", "changes"),
    [
        ([(0, 0.95)], []),
        ([(0, 0.95), (199, 0.95)], []),
        ([(0, 0.95), (200, 0.95), (400, 0.95)], [(200, "raised")]),
        ([(0, 0.9), (200, 0.9)], [(200, "raised")]),
        ([(0, 0.899), (200, 0.899)], []),
        # A dip below starts the time again.
        ([(0, 0.95), (100, 0.85), (200, 0.95), (300, 0.95)], []),
        ([(0, 0.95), (100, 0.85), (200, 0.95), (400, 0.95)], [(400, "raised")]),
        # Between the thresholds nothing changes.
        ([(0, 0.95), (200, 0.95), (300, 0.85), (400, 0.8), (500, 0.95)], [(200, "raised")]),
        ([(0, 0.95), (200, 0.95), (300, 0.799), (400, 0.79)], [(200, "raised"), (300, "cleared")]),
        # Armed again, and it takes the time again.
        ([(0, 0.95), (200, 0.95), (300, 0.5), (400, 0.95), (599, 0.95)], [(200, "raised"), (300, "cleared")]),
        ([(0, 0.95), (200, 0.95), (300, 0.5), (400, 0.95), (600, 0.95)], [(200, "raised"), (300, "cleared"), (600, "raised")]),
    ],
)
def test_hysteresis_and_duration(readings: list[tuple[int, float]], changes: list[tuple[int, str]]) -> None:
    assert play(*readings) == changes


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 1)), max_size=40))
def test_raised_and_cleared_take_turns(steps: list[tuple[int, float]]) -> None:
    now, readings = 0, []
    for wait, share in steps:
        now += wait
        readings.append((now, share))
    words = [change for _, change in play(*readings)]
    assert words == ["raised", "cleared"] * (len(words) // 2) + ["raised"] * (len(words) % 2)


@given(st.sampled_from(RULES), st.integers(0, 10**13), st.floats(0, 1))
def test_the_goal_is_what_clears_and_little_more(rule: Rule, size: int, share: float) -> None:
    used = int(size * share)
    before = FileSystem(size, used, size, used)
    goal = rule.goal(before)
    after = FileSystem(size, used - goal, size, used - goal)
    assert goal >= 0
    if goal and size > 10:
        assert rule.share(after) < rule.clear_at
        assert rule.share(FileSystem(size, used - goal + 2, size, used - goal + 2)) >= rule.clear_at
    elif size > 10:
        assert rule.share(before) < rule.clear_at


def test_inodes_are_counted_by_themselves() -> None:
    rule = RULES[1]
    assert rule.share(FileSystem(100, 99, 1000, 10)) == 0.01
    assert rule.share(FileSystem(100, 99, 0, 0)) == 0.0, "a file system that does not count them has no such trouble"


def test_near() -> None:
    detector = Detector(RULE, "/vol")
    assert not detector.near(reading(0.79))
    assert detector.near(reading(0.801))
    for ms in (0, 200):
        detector.update(reading(0.95), Instant(ms * NS_PER_MS, 0))
    assert detector.near(reading(0.1)), "until it has cleared"
