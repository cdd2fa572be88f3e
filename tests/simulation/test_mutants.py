"""The judge is judged: code that is broken on purpose is caught by chaos, by the checker that is meant to, within the seeds of CI."""

from collections.abc import Callable

import pytest

from cloudisense.agent import coordinate
from cloudisense.agent.catalogue import Action
from cloudisense.agent.coordinate import Coordinator
from cloudisense.agent.gate import Gate
from cloudisense.mesh import membership
from cloudisense.mesh.delivery import Delivery
from cloudisense.mesh.detector import Detector
from cloudisense.mesh.fork import Forgers
from cloudisense.sim import world
from cloudisense.sim.chaos import chaos
from cloudisense.sim.host import Host

pytestmark = pytest.mark.slow

SEEDS = range(1, 61)


def capability_reusable_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    """The gate forgets what was spent, and every boot of the guard has the same name."""
    real = Gate.admit

    def forgetful(self: Gate, request, now):
        self._spent.clear() if request.index == 0 else None
        return real(self, request, now)

    patch.setattr(Gate, "admit", forgetful)


def no_fence_of_plan_hash(patch: pytest.MonkeyPatch) -> None:
    real = Gate._refusal

    def lenient(self: Gate, capability, plan, request, now):
        reason = real(self, capability, plan, request, now)
        wrong_plan = reason == "the plan is not the one that was authorised" and request.index < len(plan.steps)
        return None if wrong_plan else reason

    patch.setattr(Gate, "_refusal", lenient)


def entry_sent_before_sync(patch: pytest.MonkeyPatch) -> None:
    real = Delivery.append

    def hasty(self: Delivery, kind, body, now):
        entry = real(self, kind, body, now)
        self._publish(entry, now)
        return entry

    patch.setattr(Delivery, "append", hasty)


def entry_acknowledged_before_sync(patch: pytest.MonkeyPatch) -> None:
    real = Delivery._accept

    def hasty(self: Delivery, peer, entry, previous, now):
        accepted = real(self, peer, entry, previous, now)
        self._acknowledge(accepted, now)
        return accepted

    patch.setattr(Delivery, "_accept", hasty)


def death_on_one_accuser(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(membership, "accusers_needed", lambda unsuspected: 1)


def lost_members_are_not_greeted(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Detector, "_greet_lost", lambda self, now: None)


def no_digest_exchange(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "compare", lambda self, peer, digest, now: None)
    patch.setattr(Delivery, "push_pull", lambda self, peer, reply: None)


def forks_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Forgers, "caught", lambda self, proof, now: None)


def forks_of_one_length_are_not_told_apart(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Delivery, "_some_tips", lambda self: [])


def an_action_takes_everything(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Host, "_touched", lambda self, step: [f for f in self.files if f.folder == step.value("path")])


def a_step_without_intent(patch: pytest.MonkeyPatch) -> None:
    """The guard is asked as soon as the holder asks."""

    def hasty(self: Coordinator, peer, request, now):
        incident, case = self._ledger.incidents.get(request.incident), self._cases.get(request.incident)
        if incident is not None and case is not None and not case.running and incident.capability_data:
            case.running = True
            self._requests.run_step(peer, incident.capability_data, request.plan, request.index, lambda done, later: None)

    patch.setattr(Coordinator, "step_requested", hasty)


def interrupted_steps_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("cloudisense.agent.incident.Incident.dangling", property(lambda self: []))


def a_plan_that_failed_is_asked_for_again(patch: pytest.MonkeyPatch) -> None:
    real = coordinate.candidates_for
    patch.setattr(
        coordinate,
        "candidates_for",
        lambda catalogue, measured, size, inodes, excluded: real(catalogue, measured, size, inodes, frozenset()),
    )


def an_incident_without_a_limit(patch: pytest.MonkeyPatch) -> None:
    """A failure is said, and nothing follows from it."""
    patch.setattr(Coordinator, "failed", lambda self, incident, now: None)
    patch.setattr(Coordinator, "overdue", lambda self, incident, now: None)


def rotten_entries_are_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(world, "intact", lambda data, stored_hash: True)


MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[set[str], int, int]] = {
    capability_reusable_after_a_crash: ({"H2"}, 5, 1),
    no_fence_of_plan_hash: ({"H1"}, 5, 1),
    entry_sent_before_sync: ({"M2"}, 5, 1),
    entry_acknowledged_before_sync: ({"M2"}, 5, 1),
    death_on_one_accuser: ({"M1"}, 3, 40),
    lost_members_are_not_greeted: ({"M1"}, 5, 130),
    no_digest_exchange: ({"M2", "M3"}, 5, 1),
    forks_are_not_kept: ({"F1"}, 5, 1),
    forks_of_one_length_are_not_told_apart: ({"F1"}, 5, 12),
    an_action_takes_everything: ({"H3"}, 5, 1),
    a_step_without_intent: ({"H4"}, 5, 1),
    interrupted_steps_are_forgotten: ({"H4"}, 5, 8),
    a_plan_that_failed_is_asked_for_again: ({"H5"}, 5, 2),
    an_incident_without_a_limit: ({"H5"}, 5, 2),
    rotten_entries_are_believed: ({"F1", "M3"}, 5, 5),
}
"""Mutant -> the checkers that are for it, how many nodes, and a seed that caught it: tried first, so that the suite is fast."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_it_is_caught(mutant: Callable[[pytest.MonkeyPatch], None], actions: tuple[Action, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    mutant(monkeypatch)
    checkers, nodes, known = MUTANTS[mutant]
    for seed in (known, *SEEDS):
        found = {problem.split(":")[0] for problem in chaos(seed, actions, nodes).violations}
        if found & checkers:
            return
    pytest.fail(f"not caught in {len(SEEDS)} seeds")


def test_every_checker_has_a_mutant() -> None:
    from cloudisense.sim.checkers import CHECKERS

    assert set.union(*(checkers for checkers, _, _ in MUTANTS.values())) == {*CHECKERS, "M1", "M2"}
