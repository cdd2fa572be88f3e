"""The fix history as a judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent import memory as module
from cloudisense.agent.ledger import Ledger
from cloudisense.agent.memory import HALF_LIFE_MS, Memory, lessons

NOW = 1_767_225_600_000

outcomes = st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(NOW - 3 * HALF_LIFE_MS, NOW)), max_size=8)


def taught(*lessons: tuple[bool, bool, int]) -> Memory:
    memory = Memory()
    for healed, own, at_ms in lessons:
        memory.learn("f", "s", healed, own, at_ms)
    return memory


@pytest.mark.parametrize(
    ("lessons", "mean"),
    [
        ([], 1 / 2),
        ([(True, True)], 2 / 3),
        ([(False, True)], 1 / 3),
        ([(True, False)], 1.5 / 2.5),
        ([(True, False)] * 2, 2 / 3),
        ([(True, True), (False, True)], 1 / 2),
        ([(True, True)] * 8, 9 / 10),
    ],
)
def test_posterior(lessons: list[tuple[bool, bool]], mean: float) -> None:
    assert taught(*((h, own, NOW) for h, own in lessons)).record("f", "s", NOW).mean == pytest.approx(mean)


def test_half_is_forgotten_in_a_half_life() -> None:
    memory = taught((True, True, NOW))
    assert memory.record("f", "s", NOW + HALF_LIFE_MS).healed == pytest.approx(0.5)
    memory.learn("f", "s", True, True, NOW + HALF_LIFE_MS)
    assert memory.record("f", "s", NOW + HALF_LIFE_MS).healed == pytest.approx(1.5)
    assert memory.record("f", "s", NOW - 5).healed == pytest.approx(1.5), "a clock that goes back does not make it weigh more"


@given(outcomes, st.randoms(use_true_random=False))
def test_the_order_does_not_matter(lessons: list[tuple[bool, bool, int]], rng) -> None:
    shuffled = list(lessons)
    rng.shuffle(shuffled)
    a, b = taught(*lessons).record("f", "s", NOW), taught(*shuffled).record("f", "s", NOW)
    assert (a.healed, a.failed) == (pytest.approx(b.healed), pytest.approx(b.failed))
    assert 0 < a.mean < 1


def test_rank(rig) -> None:
    candidates = tuple(rig.candidate(i) for i in range(4))
    memory = Memory()
    assert memory.rank("f", candidates, NOW) is None
    memory.learn("f", candidates[2].signature, True, False, NOW)
    memory.learn("f", candidates[1].signature, True, True, NOW)
    memory.learn("f", candidates[1].signature, True, True, NOW)
    memory.learn("f", candidates[3].signature, False, True, NOW)
    ranked = memory.rank("f", candidates, NOW)
    assert ranked is not None
    ranking, confidence = ranked
    assert (ranking.order, ranking.planner) == ((1, 2), "memory")
    assert confidence == pytest.approx(3 / 4)
    assert "healed this before" in ranking.reasoning
    assert memory.rank("another", candidates, NOW) is None
    assert memory.rank("f", candidates[3:], NOW) is None
    assert memory.rank("f", candidates, NOW + 40 * HALF_LIFE_MS) is None, "long forgotten"


def test_it_is_bounded_and_forgets_the_oldest(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 3)
    memory = Memory()
    for i in range(5):
        memory.learn("f", str(i), True, True, NOW + i)
    assert [memory.record("f", str(i), NOW).healed > 0 for i in range(5)] == [False, False, True, True, True]


def test_what_the_fix_history_taught_outlives_its_entries() -> None:
    row = {
        "incident": "one", "fingerprint": "disk_full", "signature": "clean", "outcome": "resolved",
        "node": "us", "planned_by": "them", "acted_by": "them", "at": 1000,
    }  # fmt: skip
    taught = lessons([row, row | {"incident": "two", "outcome": "escalated"}, row | {"incident": "three", "node": "others"}], "us")
    assert [(lesson.incident, lesson.own) for lesson in taught] == [("one", True), ("three", False)]
    memory = Memory()
    ledger = Ledger(b"us", memory, str, 10)
    ledger.recall(taught)
    assert memory.record("disk_full", "clean", 1000).healed == 1.5
