"""The words under a plan: figures from measurements, the model's words in quotes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.plan import Candidate, Measured, PlanRequest
from cloudisense.llm.words import REASONING_CHARS_MAX, facts, reasoning, shortened, size_text

CANDIDATE = Candidate("s", "A title.", (), Measured(45_100_000, 1_212, 212, "212 files older than 1 day"), "reversible")


def wanting(goal_bytes: int, goal_inodes: int) -> PlanRequest:
    return PlanRequest("i", "disk_full", "full", goal_bytes, goal_inodes, (CANDIDATE,))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1_500, "1.5 kB"), (45_100_000, "45.1 MB"), (3_100_000_000, "3.1 GB")]
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_facts_say_what_is_gained_and_what_is_needed() -> None:
    assert facts(wanting(9_800_000, 0), CANDIDATE) == "frees 45.1 MB (212 files older than 1 day); needed 9.8 MB"
    assert facts(wanting(0, 300), CANDIDATE) == "frees 45.1 MB and 1,212 inodes (212 files older than 1 day); needed 300 inodes"


def test_facts_of_what_frees_nothing_are_its_detail_or_its_title() -> None:
    idle = Candidate("s", "A title.", (), Measured(0, 0, 0, ""), "reversible")
    assert facts(wanting(0, 0), idle) == "A title."


def test_the_models_words_are_marked() -> None:
    assert reasoning(wanting(9_800_000, 0), CANDIDATE, "It helps.").endswith('; needed 9.8 MB. Model: "It helps."')
    assert reasoning(wanting(9_800_000, 0), CANDIDATE, "").endswith("; needed 9.8 MB.")


@given(st.text(max_size=3000), st.text(max_size=3000))
def test_reasoning_is_bounded_and_the_quote_cannot_be_left(detail: str, because: str) -> None:
    noisy = Candidate("s", "A title.", (), Measured(1, 1, 1, detail), "reversible")
    text = reasoning(wanting(5, 5), noisy, because)
    assert len(text) <= REASONING_CHARS_MAX and "\n" not in text
    quoted = text.rpartition('. Model: "')[2]
    assert quoted == text or quoted.count('"') == 1


def test_an_unfinished_sentence_ends_at_a_word() -> None:
    assert shortened("This helps in removing, old fi") == "This helps in removing, old..."
    assert shortened("Thi") == ""
