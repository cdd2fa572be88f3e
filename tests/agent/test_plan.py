"""What a capability names by hash."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.plan import Plan, Step
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError

steps = st.builds(
    Step, st.text(max_size=8), st.binary(min_size=32, max_size=32), st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4))).map(tuple)
)
plans = st.builds(
    Plan,
    st.binary(min_size=32, max_size=32),
    st.text(max_size=12),
    st.lists(steps, min_size=1, max_size=4).map(tuple),
    st.text(max_size=8),
    st.text(max_size=8),
)


@given(plans, plans)
def test_the_hash_is_of_gate_incident_and_steps(a: Plan, b: Plan) -> None:
    same = (a.gate, a.incident, a.steps) == (b.gate, b.incident, b.steps)
    assert (a.hash == b.hash) == same


@given(plans, st.text(max_size=8))
def test_words_are_not_hashed(plan: Plan, words: str) -> None:
    assert msgspec.structs.replace(plan, signature=words, reasoning=words).hash == plan.hash


@given(plans)
def test_each_field_alters_it(plan: Plan) -> None:
    step = plan.steps[0]
    changed = [
        msgspec.structs.replace(plan, gate=bytes(a ^ 1 for a in plan.gate)),
        msgspec.structs.replace(plan, incident=plan.incident + "x"),
        msgspec.structs.replace(plan, steps=(*plan.steps, step)),
        *(
            msgspec.structs.replace(plan, steps=(other, *plan.steps[1:]))
            for other in (
                msgspec.structs.replace(step, action=step.action + "x"),
                msgspec.structs.replace(step, definition=bytes(a ^ 1 for a in step.definition)),
                msgspec.structs.replace(step, values=(*step.values, ("x", "y"))),
            )
        ),
    ]
    assert len({plan.hash, *(other.hash for other in changed)}) == 1 + len(changed)


@given(plans)
def test_it_survives_the_wire(plan: Plan) -> None:
    assert unpack(pack(plan), Plan) == plan


@pytest.mark.parametrize("count", [0, 33])
def test_a_plan_from_outside_has_1_to_32_steps(count: int) -> None:
    plan = Plan(bytes(32), "i", (Step("a", bytes(32), ()),) * count, "", "")
    with pytest.raises(RemoteProtocolError, match="malformed plan"):
        unpack(pack(plan), Plan)


def test_value() -> None:
    step = Step("a", bytes(32), (("age", "1d"), ("path", "/tmp")))
    assert (step.value("age"), step.value("path"), step.value("other")) == ("1d", "/tmp", "")
