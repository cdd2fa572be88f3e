"""The helping side: plan, offer once, drive the steps that were granted."""

from typing import Any

import msgspec
import pytest

from cloudisense.agent import helper as module
from cloudisense.agent.effects import Notify, RequestPlan
from cloudisense.agent.entries import Offer, StepReply, StepRequest
from cloudisense.agent.events import PlanFailed, PlanReady
from cloudisense.agent.helper import Helper
from cloudisense.agent.incident import opened
from cloudisense.agent.memory import Memory
from cloudisense.agent.plan import Ranking
from cloudisense.agent.requests import Requests
from cloudisense.agent.settings import Settings
from cloudisense.keys.encoding import unpack
from cloudisense.mesh.instant import NS_PER_MS, Instant


class Words:
    """Stands where ``Speech`` does, and keeps what was said."""

    def __init__(self) -> None:
        self.said: list = []
        self.sent: list = []
        self.behind = False

    def may_help(self, subject: bytes) -> bool:
        return not self.behind

    def say(self, body, now) -> None:
        self.said.append(body)

    def send(self, peer, message, now) -> None:
        self.sent.append((peer, message))


class Scene:
    def __init__(self, rig, **settings) -> None:
        self.rig, self.words, self.requests, self.memory = rig, Words(), Requests(), Memory()
        self.helper = Helper(rig.helper.id, self.words, self.requests, self.memory, Settings(**settings))  # pyright: ignore[reportArgumentType]
        self.incident = opened(rig.entry(rig.subject, rig.alert()), rig.alert())

    def ask(self, help=None):
        help = help or self.rig.help(1, 2, 3)
        self.fold(help)
        self.helper.asked(self.incident, help, at(0))
        return help

    def fold(self, body, who=None) -> None:
        assert self.incident.apply(self.rig.entry(who or self.rig.subject, body), body)

    def effects(self, kind: type) -> list:
        return [e for e in self.requests.poll_effects() if isinstance(e, kind)]

    def grant(self, ms: int = 0, **changes: Any):
        """Have an offer taken."""
        [offer] = self.words.said
        if not self.incident.offers:
            self.fold(offer, self.rig.helper)
        capability = self.rig.capability(offer.plan, **changes)
        self.fold(capability)
        self.helper.granted(self.incident, capability, at(ms))
        return capability

    def tick(self, ms: int) -> int:
        """Fire what is due; how many requests that sent."""
        before = len(self.words.sent)
        while (name := self.requests.timers.pop_due(ms * NS_PER_MS)) is not None:
            if isinstance(name, tuple) and name[0] == "step":
                self.helper.retry(name[1], at(ms))
        return len(self.words.sent) - before


def test_who_is_behind_the_roster_acts_for_nobody(rig) -> None:
    """Others know of a roster that it cannot prove: that may have shut the subject out, or itself."""
    scene = offered(rig)
    scene.words.behind = True
    scene.grant()
    assert scene.words.sent == [] and scene.tick(10_000) == 0


def at(ms: int) -> Instant:
    return Instant(ms * NS_PER_MS, 1_767_225_600_000 * NS_PER_MS)


def answered(scene: Scene, order=(1,), reasoning="because") -> list[Offer]:
    [request] = scene.effects(RequestPlan)
    scene.requests.answered(PlanReady(request.token, Ranking(order, reasoning, "llm", "m", 1, 2)), at(5))
    return scene.words.said


# -- planning ----------------------------------------------------------------------------------------------------------


def test_memory_goes_before_rules_and_rules_before_the_model(rig) -> None:
    scene = Scene(rig, model=True)
    scene.memory.learn("disk_full roles=temp", rig.candidate(2).signature, True, True, 1_767_225_600_000)
    scene.ask(rig.help(1, 0, 2))
    assert [(o.planner, o.plan.steps) for o in scene.words.said] == [("memory", rig.candidate(2).steps)]
    scene = Scene(rig, model=True)
    scene.ask(rig.help(1, 2, 0))
    assert [(o.planner, o.plan.steps) for o in scene.words.said] == [("rules", rig.candidate(0).steps)]
    scene = Scene(rig, model=True)
    scene.ask()
    assert scene.words.said == [] and len(scene.effects(RequestPlan)) == 1


@pytest.mark.parametrize("settings", [{"model": False}, {"model": True, "planners": ("memory", "rules")}, {"model": True, "planners": ()}])
def test_who_has_nothing_to_say_says_nothing(rig, settings: dict) -> None:
    scene = Scene(rig, **settings)
    scene.ask()
    assert scene.words.said == [] and scene.effects(RequestPlan) == []


def test_the_model_s_choice_becomes_an_offer(rig) -> None:
    scene = Scene(rig, model=True)
    scene.ask()
    [offer] = answered(scene)
    assert (offer.planner, offer.model, offer.load_ms, offer.think_ms) == ("llm", "m", 1, 2)
    assert offer.plan.steps == rig.candidate(3).steps and offer.plan.gate == rig.subject.id
    assert offer.round == 1


@pytest.mark.parametrize("order", [(), (2,), (-1,)])
def test_a_model_that_answers_nonsense_costs_one_plan(rig, order: tuple[int, ...]) -> None:
    scene = Scene(rig, model=True)
    scene.ask()
    assert answered(scene, order) == []
    assert [n.topic for n in scene.effects(Notify)] == ["no plan"]


def test_a_model_that_died(rig) -> None:
    scene = Scene(rig, model=True)
    scene.ask()
    [request] = scene.effects(RequestPlan)
    scene.requests.answered(PlanFailed(request.token, "out of memory"), at(5))
    assert scene.words.said == []
    assert [n.text for n in scene.effects(Notify)] == ["model: out of memory"]


def test_an_answer_that_comes_too_late_is_no_offer(rig) -> None:
    for late in (lambda s: s.fold(rig.help(2, 2, 3)), lambda s: s.fold(rig.closed("cleared"))):
        scene = Scene(rig, model=True)
        scene.ask()
        late(scene)
        assert answered(scene) == []


def test_a_model_is_not_flooded(rig) -> None:
    scene = Scene(rig, model=True)
    for round in range(1, module.MAX_THINKING + 3):
        scene.ask(rig.help(round, 2, 3))
    effects = scene.requests.poll_effects()
    asked = [e for e in effects if isinstance(e, RequestPlan)]
    assert len(asked) == module.MAX_THINKING
    assert [e.text for e in effects if isinstance(e, Notify) and e.topic == "no plan"] == ["model: busy with other incidents"] * 2
    for request in asked:
        scene.requests.answered(PlanFailed(request.token, ""), at(1))
    scene.ask(rig.help(99, 2, 3))
    assert len(scene.effects(RequestPlan)) == 1


def test_an_offer_fits_one_entry(rig, monkeypatch) -> None:
    scene = Scene(rig, model=True)
    scene.ask()
    [offer] = answered(scene, reasoning="x" * 100_000)
    assert len(offer.plan.reasoning) == module.REASONING_CHARS
    scene = Scene(rig, model=True)
    monkeypatch.setattr(module, "OFFER_BYTES", 100)
    scene.ask()
    assert answered(scene) == []
    assert "too long" in scene.effects(Notify)[0].text


# -- driving -----------------------------------------------------------------------------------------------------------


def offered(rig) -> Scene:
    scene = Scene(rig)
    scene.ask(rig.help(1, 0))
    return scene


def test_it_asks_until_there_is_an_answer(rig) -> None:
    scene = offered(rig)
    capability = scene.grant()
    [(peer, request)] = scene.words.sent
    assert peer == rig.subject.id
    assert request == StepRequest(rig.incident, capability.nonce, 0, request.plan)
    assert unpack(request.plan, type(rig.plan())).hash == capability.plan_hash
    assert [scene.tick(ms) for ms in (249, 250, 499, 500)] == [0, 1, 0, 1]
    for wrong in (
        (rig.other.id, StepReply(capability.nonce, 0, "done", "")),
        (rig.subject.id, StepReply(b"x" * 16, 0, "done", "")),
        (rig.subject.id, StepReply(capability.nonce, 1, "done", "")),
    ):
        scene.helper.replied(*wrong, at(600))
    assert scene.tick(750) == 1
    scene.helper.replied(rig.subject.id, StepReply(capability.nonce, 0, "done", ""), at(800))
    assert scene.tick(10_000) == 0 and scene.helper._drives == {}


def test_step_after_step_until_one_fails(rig) -> None:
    scene = Scene(rig)
    candidate = msgspec.structs.replace(rig.candidate(), steps=rig.steps[:1] * 3)
    scene.ask(msgspec.structs.replace(rig.help(), candidates=(candidate,)))
    capability = scene.grant()
    for index in (0, 1):
        assert scene.words.sent[-1][1].index == index
        scene.helper.replied(rig.subject.id, StepReply(capability.nonce, index, "done", ""), at(1))
    assert scene.words.sent[-1][1].index == 2
    scene.helper.replied(rig.subject.id, StepReply(capability.nonce, 2, "refused", ""), at(1))
    assert len(scene.words.sent) == 3 and scene.helper._drives == {}


def test_it_stops_when_the_capability_lapses(rig) -> None:
    scene = offered(rig)
    scene.grant()
    assert scene.tick(7000) == 1
    assert scene.tick(7251) == 0 and scene.helper._drives == {}


def test_it_stops_when_the_incident_has_ended(rig) -> None:
    scene = offered(rig)
    scene.grant()
    scene.fold(rig.closed("cleared"))
    assert scene.tick(250) == 0 and scene.helper._drives == {}


def test_a_new_capability_takes_the_place_of_the_old(rig) -> None:
    scene = offered(rig)
    scene.grant()
    scene.grant(nonce=b"2" * 16)
    assert list(scene.helper._drives) == [b"2" * 16]
    assert scene.tick(250) == 1


def test_a_capability_of_an_earlier_boot_that_comes_late_changes_nothing(rig) -> None:
    scene = offered(rig)
    capability = scene.grant()
    old = rig.capability(scene.words.said[0].plan, nonce=b"0" * 16)
    scene.helper.granted(scene.incident, old, at(1))
    assert list(scene.helper._drives) == [capability.nonce]


@pytest.mark.parametrize("hours", [24])
def test_no_subject_makes_a_helper_ask_for_ever(rig, hours: int) -> None:
    scene = offered(rig)
    scene.grant(lapse_ms=hours * 3_600_000)
    assert scene.tick(module.MAX_DRIVE_MS + 1) == 0 and scene.helper._drives == {}


@pytest.mark.parametrize("what", ["holder", "gate", "plan_hash"])
def test_a_capability_for_something_else(rig, what: str) -> None:
    scene = offered(rig)
    scene.grant(0, **{what: bytes(32)})
    assert scene.words.sent == [] and scene.helper._drives == {}


def test_plans_are_bounded(rig) -> None:
    scene = Scene(rig, incidents=3)
    for i in range(6):
        scene.helper.remember(msgspec.structs.replace(rig.plan(), incident=str(i)))
        scene.helper.remember(msgspec.structs.replace(rig.plan(), incident=str(i)))
    assert [p.incident for p in scene.helper._plans.values()] == ["3", "4", "5"]
