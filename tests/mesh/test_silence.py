"""Which evidence leads to which state, and that no single accuser, and no order of accusers, decides it."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.mesh.silence import verdict

KINDS = ("silent", "mute", "refused")
EVIDENCE = st.dictionaries(st.binary(min_size=2, max_size=2), st.sampled_from(KINDS), max_size=8)
NEEDED = st.integers(1, 2)


@given(EVIDENCE, NEEDED)
def test_too_few_accusers_decide_nothing(evidence: dict[bytes, str], needed: int) -> None:
    state = verdict(evidence, needed)
    assert (state is None) == (len(evidence) < needed)


@given(EVIDENCE, NEEDED)
def test_death_is_only_for_silence_without_a_sign_of_the_host(evidence: dict[bytes, str], needed: int) -> None:
    if verdict(evidence, needed) == "dead":
        assert set(evidence.values()) == {"silent"}


@given(EVIDENCE, NEEDED)
def test_an_agent_is_down_only_when_a_quorum_was_refused(evidence: dict[bytes, str], needed: int) -> None:
    refused = list(evidence.values()).count("refused")
    assert (verdict(evidence, needed) == "agent_down") == (refused >= needed)


@given(EVIDENCE, NEEDED, st.randoms(use_true_random=False))
def test_order_does_not_matter(evidence: dict[bytes, str], needed: int, random) -> None:
    items = list(evidence.items())
    random.shuffle(items)
    assert verdict(dict(items), needed) == verdict(evidence, needed)


@given(EVIDENCE, NEEDED)
def test_one_more_silent_accuser_never_takes_a_milder_state_away(evidence: dict[bytes, str], needed: int) -> None:
    before = verdict(evidence, needed)
    after = verdict({**evidence, b"one more": "silent"}, needed)
    assert before is None or after == before


def test_each_silence() -> None:
    assert verdict({b"a": "refused", b"b": "refused"}, 2) == "agent_down"
    assert verdict({b"a": "refused", b"b": "silent"}, 2) == "stalled"
    assert verdict({b"a": "mute", b"b": "silent"}, 2) == "stalled"
    assert verdict({b"a": "silent", b"b": "silent"}, 2) == "dead"
