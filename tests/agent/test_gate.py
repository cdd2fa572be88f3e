"""The only door to an action: one test per check, each of which fails when that check is taken out."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.effects import RunStep
from cloudisense.agent.gate import Admitted, Gate
from cloudisense.agent.plan import Plan
from cloudisense.agent.settings import default_mode
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import Refused
from cloudisense.mesh.instant import NS_PER_MS, Instant

BOOT = b"b" * 16
GRANTED_MS, LAPSE_MS = 1000, 7000
WALL_NS = 1_767_225_600_000 * NS_PER_MS


def at(ms: int, extra_ns: int = 0) -> Instant:
    return Instant(ms * NS_PER_MS + extra_ns, WALL_NS)


NOW = at(GRANTED_MS + 10)


def gate(rig, mode=None, spent=(), catalogue=None, boot=BOOT, host=None) -> Gate:
    return Gate(host or rig.subject.id, rig.keys.mesh_id, boot, catalogue or rig.catalogue, mode or default_mode(), spent)


def request(rig, plan: Plan | None = None, index: int = 0, signer=None, requester=None, **changes) -> RunStep:
    plan = plan or rig.plan()
    entry = rig.entry(signer or rig.subject, rig.capability(plan, **changes))
    return RunStep(1, requester or rig.helper.id, entry.data, pack(plan), index)


def reason(answer: Admitted | Refused) -> str:
    assert isinstance(answer, Refused), "it was let in"
    return answer.reason


def long_plan(rig, steps: int = 3) -> Plan:
    return Plan(rig.subject.id, rig.incident, rig.steps[:steps], "all of it", "because")


def test_what_is_in_order_runs_once(rig) -> None:
    door, asked = gate(rig), request(rig)
    admitted = door.admit(asked, NOW)
    assert isinstance(admitted, Admitted)
    assert admitted.step == rig.plan().steps[0]
    assert admitted.spent.table == "spent"
    assert admitted.spent.row == {"nonce": b"n" * 16, "step": 0, "at_ms": NOW.wall_ms}
    assert reason(door.admit(asked, NOW)) == "this step has been used"


def test_spent_before_the_start_is_spent(rig) -> None:
    assert reason(gate(rig, spent=[(b"n" * 16, 0)]).admit(request(rig), NOW)) == "this step has been used"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gate": bytes(32)}, "the capability is for another gate"),
        ({"boot": b"c" * 16}, "the capability is from before the guard's restart"),
        ({"holder": bytes(32)}, "the capability belongs to another node"),
        ({"plan_hash": bytes(32)}, "the plan is not the one that was authorised"),
        ({"incident": "another"}, "the capability is for another incident"),
        ({"steps": 2}, "no such step"),
        ({"granted_ms": GRANTED_MS + 11}, "the capability has lapsed"),
        ({"granted_ms": 0, "lapse_ms": GRANTED_MS + 9}, "the capability has lapsed"),
    ],
)
def test_a_capability_for_something_else(rig, changes: dict, words: str) -> None:
    assert reason(gate(rig).admit(request(rig, **changes), NOW)) == words


def test_asked_for_by_another_node(rig) -> None:
    assert reason(gate(rig).admit(request(rig, requester=rig.other.id), NOW)) == "the capability belongs to another node"


def test_a_plan_for_another_gate(rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), gate=rig.other.id)
    assert reason(gate(rig).admit(request(rig, plan), NOW)) == "the capability is for another gate"


def test_at_another_host(rig) -> None:
    """The very same request, carried to another gate."""
    assert reason(gate(rig, host=rig.other.id).admit(request(rig), NOW)) == "not a capability of this host"


def test_it_lapses_to_the_nanosecond(rig) -> None:
    last = at(GRANTED_MS + LAPSE_MS)
    assert isinstance(gate(rig).admit(request(rig), last), Admitted)
    rig_again = request(rig)
    assert reason(gate(rig).admit(rig_again, dataclasses.replace(last, boot_ns=last.boot_ns + 1))) == "the capability has lapsed"
    assert isinstance(gate(rig).admit(rig_again, at(GRANTED_MS)), Admitted)
    assert reason(gate(rig).admit(rig_again, at(GRANTED_MS, -1))) == "the capability has lapsed"


def test_steps_in_their_order_only(rig) -> None:
    plan, door = long_plan(rig), gate(rig)
    entry = rig.entry(rig.subject, rig.capability(plan))
    steps = [RunStep(1, rig.helper.id, entry.data, pack(plan), i) for i in range(-1, 4)]
    assert reason(door.admit(steps[0], NOW)) == "no such step"
    assert reason(door.admit(steps[4], NOW)) == "no such step"
    assert reason(door.admit(steps[2], NOW)) == "an earlier step has not run"
    for i in (1, 2, 3):
        assert isinstance(door.admit(steps[i], NOW), Admitted)
        assert reason(door.admit(steps[i], NOW)) == "this step has been used"


def test_a_refusal_spends_nothing(rig) -> None:
    door = gate(rig)
    asked = request(rig)
    assert not door.admit(dataclasses.replace(asked, requester=rig.other.id), NOW)
    assert isinstance(door.admit(asked, NOW), Admitted)


def test_paused(rig) -> None:
    door = gate(rig)
    door.paused = True
    asked = request(rig)
    assert reason(door.admit(asked, NOW)) == "this host is paused"
    door.paused = False
    assert isinstance(door.admit(asked, NOW), Admitted)


@pytest.mark.parametrize("mode", [{"reversible": "observe"}, {"reversible": "advise"}, {"destructive": "act"}])
def test_the_mode_of_the_host(rig, mode: dict[str, str]) -> None:
    """What is not said in so many words is not allowed."""
    assert reason(gate(rig, mode=mode).admit(request(rig), NOW)) == "mode: reversible actions are not allowed to run here"


def test_an_action_that_is_not_in_the_catalogue(rig) -> None:
    here = Catalogue(tuple(a for a in rig.catalogue.actions.values() if a.id != rig.steps[0].action), tuple(rig.catalogue.paths.values()))
    assert "no action" in reason(gate(rig, catalogue=here).admit(request(rig), NOW))


def test_a_definition_that_changed_since(rig) -> None:
    actions = tuple(msgspec.structs.replace(a, timeout_s=a.timeout_s + 1) for a in rig.catalogue.actions.values())
    here = Catalogue(actions, tuple(rig.catalogue.paths.values()))
    assert reason(gate(rig, catalogue=here).admit(request(rig), NOW)).endswith("its definition here is another one")


@pytest.mark.parametrize("path", ["/vol/data", "/", "/vol/cache/../data", "/vol/cache/", "", "/vol/logs"])
def test_a_folder_that_was_not_declared_for_it(rig, path: str) -> None:
    """Even a plan that the subject itself signed does not get past what the operator declared."""
    step = msgspec.structs.replace(rig.steps[0], values=(("path", path),))
    assert step.action == "clean_cache"
    plan = msgspec.structs.replace(rig.plan(), steps=(step,))
    assert reason(gate(rig).admit(request(rig, plan), NOW)).endswith("is not allowed here")


def test_signed_by_another_member(rig) -> None:
    assert reason(gate(rig).admit(request(rig, signer=rig.other), NOW)) == "not a capability of this host"


def test_another_kind_of_entry_with_the_same_body(rig) -> None:
    entry = rig.feeds.append(rig.subject, 1, rig.wall_ms, "grant", pack(rig.capability()))
    assert reason(gate(rig).admit(RunStep(1, rig.helper.id, entry.data, pack(rig.plan()), 0), NOW)) == "not a capability of this host"


def test_of_another_mesh(rig) -> None:
    door = Gate(rig.subject.id, rig.keys.foreign_mesh_id, BOOT, rig.catalogue, default_mode(), ())
    assert reason(door.admit(request(rig), NOW)) == "bad signature"


@given(data=st.data())
def test_a_capability_with_any_bit_flipped(make_rig, data: st.DataObject) -> None:
    rig = make_rig()
    asked = request(rig)
    bit = data.draw(st.integers(0, len(asked.capability) * 8 - 1))
    altered = bytearray(asked.capability)
    altered[bit // 8] ^= 1 << bit % 8
    assert not gate(rig).admit(dataclasses.replace(asked, capability=bytes(altered)), NOW)


@given(data=st.data())
def test_a_plan_with_any_byte_altered(make_rig, data: st.DataObject) -> None:
    """Refused, or it was in the words, which nobody runs: never another step."""
    rig = make_rig()
    plan = long_plan(rig)
    asked = request(rig, plan)
    at_byte = data.draw(st.integers(0, len(asked.plan) - 1))
    altered = bytearray(asked.plan)
    altered[at_byte] = data.draw(st.integers(0, 255).filter(lambda b: b != asked.plan[at_byte]))
    words = len(pack(plan.signature)) + len(pack(plan.reasoning))
    answer = gate(rig).admit(dataclasses.replace(asked, plan=bytes(altered)), NOW)
    if at_byte < len(asked.plan) - words:
        assert not answer
    else:
        assert not answer or (isinstance(answer, Admitted) and answer.step == plan.steps[0])


@given(st.binary(max_size=300))
def test_junk(make_rig, junk: bytes) -> None:
    rig = make_rig()
    asked = request(rig)
    assert not gate(rig).admit(dataclasses.replace(asked, plan=junk), NOW)
    assert not gate(rig).admit(dataclasses.replace(asked, capability=junk), NOW)


def test_a_plan_that_is_too_long(rig) -> None:
    plan = msgspec.structs.replace(rig.plan(), reasoning="x" * 8192)
    assert reason(gate(rig).admit(request(rig, plan), NOW)) == "malformed plan: too long"
