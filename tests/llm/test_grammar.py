"""A plan that does not exist cannot be written, whatever the candidates' texts are."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloudisense.agent.plan import Candidate, Measured
from cloudisense.llm.grammar import NAME_CHARS_MAX, opening, parse_answer, plan_grammar, plan_name

REASON = "This frees the space that old files take."
HOSTILE = [
    '"',
    '" | [a-z]*',
    "\\",
    '\\"',
    "\n",
    'x"\nroot ::= "y',
    "::=",
    "(){}[]*+?|^-",
    "\x00\x7f\x85",
    "\\x22",
    "\u2028",
    "\ud800",
    "a" * 10_000,
    "é" * 300,
]


def make(signature: str) -> Candidate:
    return Candidate(signature, "title", (), Measured(0, 0, 0, ""), "reversible")


def literals(rule: str) -> list[str]:
    """The strings of a rule that is nothing but alternatives of GBNF strings, read as llama.cpp's grammars/README says."""
    result: list[str] = []
    rest = rule
    while True:
        match = re.match(r'"((?:[^"\\\n]|\\["\\nrt]|\\x[0-9A-Fa-f]{2})*)"', rest)
        assert match, f"not a string: {rest[:80]}"
        result.append(re.sub(r"\\x([0-9A-Fa-f]{2})|\\(.)", lambda m: chr(int(m[1], 16)) if m[1] else m[2], match[1]))
        rest = rest[match.end() :]
        if not rest:
            return result
        assert rest.startswith(" | ")
        rest = rest[3:]


@given(st.lists(st.text(max_size=60) | st.sampled_from(HOSTILE), min_size=1, max_size=6))
@example(HOSTILE)
def test_the_plan_rule_is_exactly_the_candidates_names(signatures: list[str]) -> None:
    candidates = [make(signature) for signature in signatures]
    grammar = plan_grammar(candidates)
    assert grammar.isascii() and grammar.isprintable() is False
    lines = grammar.rstrip("\n").split("\n")
    assert [line.split(" ::= ")[0] for line in lines] == ["root", "plan", "because", "letter"]
    assert [json.loads(text) for text in literals(lines[1].removeprefix("plan ::= "))] == [plan_name(c) for c in candidates]


@given(st.text(max_size=400) | st.sampled_from(HOSTILE))
def test_an_answer_with_its_opening_parses_to_its_candidate(signature: str) -> None:
    candidates = [make("another"), make(signature)]
    index, because = parse_answer(f'{opening(candidates[1])}{REASON}"}}', candidates)
    assert (plan_name(candidates[index]), because) == (plan_name(candidates[1]), REASON)


def test_ordinary_signatures_stand_as_they_are() -> None:
    assert plan_name(make("purge_old_files age=1d role=temp")) == "purge_old_files age=1d role=temp"


def test_long_signatures_get_bounded_names_that_differ() -> None:
    names = {plan_name(make("a" * 10_000 + end)) for end in "bc"}
    assert len(names) == 2 and all(len(json.dumps(name)) <= NAME_CHARS_MAX for name in names)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"plan": "one"}',
        '{"plan": "three", "because": "' + REASON + '"}',
        '{"plan": "one", "because": "It frees 45 megabytes of space on the disk."}',
        '{"plan": "one", "because": "Short."}',
        '{"plan": "one", "because": "' + REASON[:-1] + '"}',
        '{"plan": "one", "because": "' + "This frees space " * 20 + 'now."}',
        '{"plan": "one", "because": "' + REASON + '", "command": "rm"}',
        '{"plan": "one", "because": "' + REASON + '"} {}',
    ],
)
def test_other_answers_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not what the grammar asks for"):
        parse_answer(text, [make("one"), make("two")])


def test_no_candidates_no_grammar() -> None:
    with pytest.raises(ValueError, match="no candidates"):
        plan_grammar([])
