"""The subject's side: its policy on offers, and what it does at each turn. Whole plots are in tests/simulation."""

from typing import Any

import msgspec
import pytest

from cloudisense.agent import coordinate as module
from cloudisense.agent.entries import Failed, StepRequest
from cloudisense.agent.plan import Plan
from cloudisense.agent.settings import Settings
from cloudisense.host.catalogue import builtin_actions
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S
from cloudisense.sim.checkers import violations
from cloudisense.sim.scenarios import furnish
from cloudisense.sim.world import World


class Host:
    """A subject, two helpers, and a full disk."""

    def __init__(self, seed: int = 1, settings: Settings | None = None) -> None:
        self.world = World(seed, builtin_actions())
        self.world.nodes[0].settings = settings or Settings()
        furnish(self.world)
        for sim in self.world.nodes:
            self.world.start(sim)
        self.until(lambda: False, 10)
        self.sim = self.world.nodes[0]
        self.sim.host.fill("/vol/scratch", 0.95, self.world.rng)

    def until(self, stop, seconds: int = 60) -> bool:
        return self.world.clock.run(self.world.clock.now_ns + seconds * NS_PER_S, stop)

    @property
    def node(self) -> Any:
        return self.sim.node

    @property
    def incident(self) -> Any:
        return next(iter(self.node.agent.incidents.values()))

    def state(self, *states: str) -> "Host":
        assert self.until(lambda: self.node.agent.incidents and self.incident.state in states)
        return self

    @property
    def coordinator(self) -> Any:
        return self.node.agent._coordinator

    def said(self, kind: str) -> list:
        own = self.sim.member.identity.id
        return [e for e in self.node.mesh.feeds.all() if e.kind == kind and e.node == own]


@pytest.fixture
def host() -> Host:
    return Host()


def test_every_refusal(host: Host) -> None:
    """Each check of the policy, by its reason; the offer that came in is in order."""
    host.state("offered")
    incident, check = host.incident, host.coordinator.check
    [(helper, offer)] = incident.offers.items()
    assert check(incident, helper, offer) is None
    replace = msgspec.structs.replace
    other = host.world.nodes[2].member.identity.id
    plan = offer.plan
    step = plan.steps[0]
    bad = {
        "this node may not act for others": (bytes(32), offer),
        "the plan is for something else": (helper, replace(offer, plan=replace(plan, gate=other))),
        "the plan is for something": (helper, replace(offer, plan=replace(plan, incident="x"))),
        "the plan is not one of": (helper, replace(offer, plan=replace(plan, steps=(step, step)))),
        "the plan is not one of the": (helper, replace(offer, plan=replace(plan, steps=(replace(step, definition=bytes(32)),)))),
        "the plan is not": (helper, replace(offer, plan=replace(plan, signature="x"))),
        "malformed offer": (helper, replace(offer, planner="oracle")),
        "malformed": (helper, replace(offer, confidence=1.5)),
    }
    for words, (node, wrong) in bad.items():
        assert check(incident, node, wrong).reason.startswith(words)
    incident.failed.append(Failed(incident.id, plan.signature, "llm", "no"))
    assert check(incident, helper, offer).reason == "this plan already failed"
    incident.failed.clear()
    host.sim.settings.mode["reversible"] = "observe"
    assert check(incident, helper, offer).reason == "reversible actions are not allowed here"
    host.sim.settings.mode["reversible"] = "act"
    host.sim.catalogue.paths.pop("/vol/scratch")
    assert check(incident, helper, offer).reason.endswith("is not allowed here")
    incident.help = None
    assert check(incident, helper, offer).reason.startswith("the plan is not one of the candidates")


def test_one_grant_in_a_round(host: Host) -> None:
    """A second offer between the grant and its sync must not void the first: its holder may have begun."""
    host.state("offered")
    now = host.world.clock.instant()
    incident, coordinator = host.incident, host.coordinator
    [offer] = incident.offers.values()
    for _ in range(3):
        coordinator.decide(incident.id, now)
        coordinator.offered(incident, host.sim.member.identity.id, msgspec.structs.replace(offer, planner="memory"), now)
    assert len(host.said("capability")) == 1
    host.state("resolved")
    assert len(host.world.ran) == 1


def test_the_capability_is_for_one_plan_one_holder_one_gate_one_boot(host: Host) -> None:
    host.state("granted")
    incident = host.incident
    capability: Capability = incident.capability
    assert capability.plan_hash == incident.offer.plan.hash
    assert capability.holder == host.world.nodes[1].member.identity.id
    assert capability.gate == host.sim.member.identity.id
    assert capability.steps == 1 and capability.lapse_ms == 7000
    assert abs(capability.granted_ms - host.world.clock.now_ns // NS_PER_MS) < 50


@pytest.mark.parametrize(
    "change",
    [
        {"nonce": b"x" * 16},
        {"index": 1},
        {"index": -1},
        {"incident": "another"},
    ],
)
def test_step_requests_that_lead_nowhere(host: Host, change: dict) -> None:
    host.state("granted")
    capability, plan = host.incident.capability, host.incident.offer.plan
    request = StepRequest(host.incident.id, capability.nonce, 0, pack(plan))
    now = host.world.clock.instant()
    host.coordinator.step_requested(capability.holder, msgspec.structs.replace(request, **change), now)
    host.coordinator.step_requested(host.world.nodes[2].member.identity.id, request, now)
    host.coordinator.step_requested(capability.holder, request, now.__class__(now.boot_ns + 8 * NS_PER_S, now.wall_ns))
    assert host.said("intent") == []
    host.coordinator.step_requested(capability.holder, request, now)
    assert len(host.said("intent")) == 1
    host.coordinator.step_requested(capability.holder, request, now)
    assert len(host.said("intent")) == 1, "asked again while it runs"


def test_a_holder_that_sends_another_plan_is_stopped_at_the_gate(host: Host) -> None:
    """What goes to the gate is what the holder sent; the hash in the capability decides."""
    host.state("granted")
    capability, plan = host.incident.capability, host.incident.offer.plan
    other = next(c for c in host.incident.help.candidates if c.steps != plan.steps)
    sent = Plan(plan.gate, plan.incident, other.steps, other.signature, "")
    host.coordinator.step_requested(
        capability.holder, StepRequest(host.incident.id, capability.nonce, 0, pack(sent)), host.world.clock.instant()
    )
    host.state("failed", "seeking", "offered")
    assert [o.detail for o in host.incident.outcomes] == ["the plan is not the one that was authorised"]
    assert host.world.ran == []


def test_an_answer_is_repeated_and_the_step_is_not(host: Host) -> None:
    host.state("verifying")
    capability, plan = host.incident.capability, host.incident.offer.plan
    request = StepRequest(host.incident.id, capability.nonce, 0, pack(plan))
    for _ in range(3):
        host.world.command(
            host.sim, lambda node: node.agent._coordinator.step_requested(capability.holder, request, host.world.clock.instant())
        )
    host.state("resolved")
    assert len(host.world.ran) == 1 and len(host.said("intent")) == 1


@pytest.mark.parametrize("state", ["seeking", "offered", "granted", "verifying"])
def test_nothing_is_left_behind(state: str) -> None:
    """After the end: no case, no deadline but the next sample, no question but what the host has yet to answer."""
    host = Host(3)
    host.state(state)
    if state == "seeking":
        host.sim.host.files = [f for f in host.sim.host.files if f.folder != "/vol/scratch"]
    host.state("resolved", "cleared")
    host.until(lambda: False, 20)
    for node in [sim.node for sim in host.world.nodes if sim.node is not None]:
        agent: Any = node.agent
        assert agent._coordinator._cases == {} and agent._coordinator._verifying == {}
        assert agent._helper._drives == {} and agent._helper._thinking == 0
        assert agent._closing == {}
        assert {name[0] for name in agent._requests.timers._live} <= {"sample"}


def test_a_help_request_fits_one_entry(host: Host, monkeypatch) -> None:
    monkeypatch.setattr(module, "HELP_BYTES", 500)
    host.state("seeking")
    help = host.incident.help
    assert len(pack(help)) <= 500
    assert help.candidates[0].signature == "purge_old_files age=7d role=temp", "the mildest stay"
    assert len(help.candidates) < 4


def test_one_that_does_not_fit_is_escalated(host: Host, monkeypatch) -> None:
    monkeypatch.setattr(module, "HELP_BYTES", 10)
    host.state("escalated")
    assert host.incident.verdict == "what could be done here is too long to say"


def test_a_kind_or_a_target_that_is_no_longer_watched_ends_at_the_restart(host: Host) -> None:
    host.state("seeking")
    host.world.crash(host.sim)
    host.sim.catalogue.paths.clear()
    host.world.start(host.sim)
    host.state("escalated")
    assert host.incident.verdict == "/vol is not watched here any more"


def spread(host: Host, parts: int) -> None:
    """Three ``parts``-ths of what fills the disk can be freed, in three folders: none is enough by itself."""
    big = [f for f in host.sim.host.files if f.folder == "/vol/scratch" and not f.canary]
    for i, file in enumerate(big):
        places = (("/vol/cache", 100), ("/vol/logs", 100), ("/vol/scratch", 90_000))
        file.folder, file.age_s = places[i % parts] if i % parts < 3 else ("/vol/scratch", 100)


def test_steps_that_take_longer_than_a_capability_still_get_done() -> None:
    """Each lapses after one step. As long as a step was done under it, there is another one for the rest."""
    host = Host(5, settings=Settings(lapse_ms=30, lapse_per_step_ms=1))
    spread(host, 15)
    host.state("resolved", "escalated")
    assert host.incident.state == "resolved", host.incident.verdict
    assert len(host.sim.host.ran) == len(set(host.sim.host.ran)) == 3
    assert len({nonce for _, nonce, _ in host.world.ran}) == 3
    host.until(lambda: False, 60)
    assert violations(host.world) == []


def test_an_answer_that_comes_after_the_end(host: Host) -> None:
    """It ended while a sample was under way: one end is enough."""
    host.state("verifying")
    host.world.command(host.sim, lambda node: node.agent._coordinator.overdue(host.incident.id, host.world.clock.instant()))
    host.until(lambda: False, 10)
    assert host.incident.state == "escalated"
    assert len(host.said("closed")) == 1


def test_the_rest_of_a_plan_is_done_by_the_subject() -> None:
    """Several steps; the holder dies after the first. Nothing is done twice, and each step has its capability."""
    host = Host(5)
    spread(host, 8)
    host.state("acting")
    assert host.incident.capability.steps > 1
    holder = host.world.nodes[1]
    assert host.incident.capability.holder == holder.member.identity.id
    assert host.until(lambda: host.incident.steps_done == 1)
    host.world.crash(holder)
    host.state("resolved")
    assert len(host.sim.host.ran) == len(set(host.sim.host.ran)) > 1
    assert len({nonce for _, nonce, _ in host.world.ran}) == 2
    assert host.incident.planned_by == holder.member.identity.id
    assert host.incident.capability.holder == host.sim.member.identity.id
    host.world.start(holder)
    host.until(lambda: False, 60)
    assert violations(host.world) == []
