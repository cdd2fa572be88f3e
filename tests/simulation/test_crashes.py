"""Agents that die at the worst moments, and come back."""

import random
from collections.abc import Callable

import pytest

from cloudisense.agent.entries import Outcome
from cloudisense.agent.ledger import parse_body
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S


def spent(stage) -> bool:
    return bool(stage.subject.disk.rows("spent"))


PHASES: dict[str, Callable] = {
    "open": lambda s: s.in_state("open"),
    "seeking": lambda s: s.in_state("seeking"),
    "offered": lambda s: s.in_state("offered"),
    "granted": lambda s: s.in_state("granted"),
    "intent": lambda s: s.in_state("acting"),
    "spent": spent,
    "ran": lambda s: bool(s.world.ran),
    "outcome": lambda s: s.in_state("verifying"),
}
"""What the subject had just done when it died."""


def strike(stage, sim, when: Callable[[], bool], back_s: float) -> None:
    """Kill ``sim`` when ``when`` holds; start it again after a while."""
    assert stage.until(when), "it never came to that"
    stage.world.crash(sim)
    stage.world.clock.after(int(back_s * NS_PER_S), lambda: stage.world.start(sim))
    stage.until(lambda: sim.node is not None)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("seed", range(4))
def test_the_subject_dies(stage, phase: str, seed: int) -> None:
    s = stage(seed)
    s.fill()
    strike(s, s.subject, lambda: PHASES[phase](s), [0.3, 4, 20, 40][seed])
    assert s.until(s.ended, 300), [(sim.name, i.state) for sim in s.world.nodes for i in s.incidents(sim)]
    assert s.incident().state in ("resolved", "cleared"), s.incident().verdict
    assert s.subject.host.read().used < 0.8 * s.subject.host.size
    assert s.quiet() == []


def test_the_subject_dies_between_run_and_outcome(stage) -> None:
    """The step has healed, and only the next boot can say so: outcome, three samples, closed. Nothing runs again."""
    s = stage(5)
    s.fill()
    strike(s, s.subject, lambda: PHASES["ran"](s), 2)
    assert s.until(s.over)
    outcomes = [b for e in s.subject.node.mesh.feeds.all() if isinstance(b := parse_body(e), Outcome)]
    assert [(o.verdict, o.detail) for o in outcomes] == [("failed", "the agent was restarted before this step ended")]
    assert len(s.world.ran) == 1
    for sim in s.world.nodes:
        assert s.incident(sim).state == "resolved"
        assert s.incident(sim).planned_by and s.incident(sim).offer is not None, "everyone still knows who healed it, and how"
    assert s.quiet() == []


def test_it_dies_between_spending_and_running(stage) -> None:
    """Spent counts as run: the new boot plans anew under another capability."""
    s = stage(6)
    s.fill()
    strike(s, s.subject, lambda: spent(s), 2)
    assert not s.world.ran
    [lost] = s.subject.disk.rows("spent")
    assert s.until(s.ended, 300)
    assert s.incident().state == "resolved"
    assert lost["nonce"] not in {nonce for _, nonce, _ in s.world.ran}
    assert s.quiet() == []


def test_an_incident_of_a_boot_before_that_is_below_the_threshold_still_ends(stage) -> None:
    """The trouble went away while the agent was down: no detector will ever fire for it again."""
    s = stage(7)
    s.fill()
    assert s.until(lambda: s.in_state("seeking"))
    s.world.crash(s.subject)
    s.run(2)
    s.subject.host.files = [f for f in s.subject.host.files if f.canary or f.folder != "/vol/scratch"]
    s.world.start(s.subject)
    assert s.until(s.over)
    assert s.incident().state == "cleared"
    assert s.quiet() == []


@pytest.mark.parametrize("seed", range(24))
def test_the_subject_dies_at_any_moment_twice(stage, seed: int) -> None:
    rng = random.Random(seed)
    s = stage(seed + 100)
    s.fill()
    for _ in range(2):
        at = s.world.clock.now_ns + rng.randrange(0, 6000) * NS_PER_MS
        strike(s, s.subject, lambda at=at: s.world.clock.now_ns >= at, rng.choice([0.1, 1, 8]))
    assert s.until(s.ended, 300), [(sim.name, i.state) for sim in s.world.nodes for i in s.incidents(sim)]
    assert s.quiet() == []


HELPER_PHASES: dict[str, Callable] = {
    "thinking": lambda s: s.incident(s.helpers[0]) is not None and s.incident(s.helpers[0]).help is not None,
    **{state: lambda s, state=state: s.in_state(state) for state in ("open", "seeking", "offered", "granted", "acting", "verifying")},
}


@pytest.mark.parametrize("phase", HELPER_PHASES)
@pytest.mark.parametrize("back_s", [0.5, 60])
def test_the_helper_dies(stage, phase: str, back_s: float) -> None:
    """It is the only one with a model: when it has not offered yet, the incident waits for it; what it held lapses."""
    s = stage(8)
    s.fill()
    strike(s, s.helpers[0], lambda: HELPER_PHASES[phase](s), back_s)
    assert s.until(s.ended, 300), [(sim.name, i.state) for sim in s.world.nodes for i in s.incidents(sim)]
    assert s.incident().state == "resolved", s.incident().verdict
    assert s.quiet() == []


def test_a_host_that_is_gone_for_good_is_escalated_by_one_of_its_peers(stage) -> None:
    s = stage(9)
    s.fill()
    assert s.until(lambda: s.in_state("offered"))
    s.world.crash(s.subject)
    assert s.until(s.over, 120), [(sim.name, i.state) for sim in s.world.nodes for i in s.incidents(sim)]
    for sim in s.helpers:
        row = s.incident(sim).row("n1").row
        assert row["state"] == "escalated" and row["escalated_to"] == "operator" and row["closed_ms"]
    said = [e for e in s.helpers[0].node.mesh.feeds.all() if e.kind == "escalation"]
    assert len(said) == 1, "peers wait in turn"
    # It comes back, and what it says counts for more than what was said of it.
    s.world.start(s.subject)
    assert s.until(s.ended, 300)
    assert {s.incident(sim).state for sim in s.world.nodes} == {"resolved"}
    assert s.quiet() == []
