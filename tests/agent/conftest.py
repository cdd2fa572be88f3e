"""Shared by the agent's tests: a mesh's keys, a host's catalogue, feeds that really are signed, and things to say in them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.entries import KIND_OF, Alert, Body, Closed, Failed, Help, Intent, Offer, Outcome
from cloudisense.agent.incident import incident_id, incident_key
from cloudisense.agent.plan import Candidate, Measured, Plan, Step
from cloudisense.host.catalogue import builtin_actions
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.keys.identity import Identity
from cloudisense.keys.testing import TestMesh, issue_for_tests
from cloudisense.mesh.feed import Entry, Feeds
from cloudisense.mesh.limits import Limits
from cloudisense.sim.world import PATHS

WALL_MS = 1_767_225_600_000
BOOT = b"b" * 16
NONCE = b"n" * 16


@dataclass
class Rig:
    """A subject, helpers, and what they say of one incident."""

    keys: TestMesh
    catalogue: Catalogue
    subject: Identity
    helper: Identity
    other: Identity
    feeds: Feeds
    wall_ms: int = WALL_MS
    key: str = ""
    incident: str = ""
    steps: tuple[Step, ...] = field(default=())

    def __post_init__(self) -> None:
        self.key = incident_key(self.subject.id, "disk_full", "/vol")
        self.incident = incident_id(self.key, self.wall_ms)
        self.steps = self.catalogue.steps_for("disk_full", "/vol")

    def entry(self, who: Identity, body: Body | Capability, generation: int = 1, wall_ms: int | None = None) -> Entry:
        """The next entry of ``who``'s feed."""
        kind = "capability" if isinstance(body, Capability) else KIND_OF[type(body)]
        return self.feeds.append(who, generation, self.wall_ms if wall_ms is None else wall_ms, kind, pack(body))

    def alert(self) -> Alert:
        return Alert(self.incident, self.key, "disk_full", "/vol", "disk_full roles=temp", "/vol is full", 100, 95, 10, 1)

    def candidate(self, i: int = 0) -> Candidate:
        step = self.steps[i]
        return Candidate(
            self.catalogue.signature(step), self.catalogue.title(step), (step,), Measured(10**7, 5, 5, "5 files"), "reversible"
        )

    def help(self, round: int = 1, *indices: int) -> Help:
        return Help(self.incident, round, 10**6, 0, tuple(self.candidate(i) for i in indices or (0, 1)))

    def plan(self, i: int = 0) -> Plan:
        return Plan(self.subject.id, self.incident, self.candidate(i).steps, self.candidate(i).signature, "because")

    def offer(self, i: int = 0, round: int = 1, planner: str = "llm", confidence: float = 0.4) -> Offer:
        return Offer(self.incident, round, self.plan(i), planner, "", confidence, 0, 0)

    def capability(self, plan: Plan | None = None, **changes: Any) -> Capability:
        plan = plan or self.plan()
        fields: dict[str, Any] = {
            "nonce": NONCE,
            "incident": self.incident,
            "plan_hash": plan.hash,
            "holder": self.helper.id,
            "gate": self.subject.id,
            "boot": BOOT,
            "steps": len(plan.steps),
            "granted_ms": 1000,
            "lapse_ms": 7000,
        }
        return Capability(**(fields | changes))

    def intent(self, index: int = 0, nonce: bytes = NONCE) -> Intent:
        return Intent(self.incident, nonce, index, self.steps[0])

    def outcome(self, index: int = 0, verdict: str = "done", nonce: bytes = NONCE) -> Outcome:
        return Outcome(self.incident, nonce, index, verdict, "5 files", 10**7)

    def failed(self, i: int = 0) -> Failed:
        return Failed(self.incident, self.candidate(i).signature, "llm", "still full")

    def closed(self, state: str = "resolved", i: int = 0) -> Closed:
        return Closed(
            self.incident,
            state,
            "measured",
            "disk_full roles=temp",
            self.candidate(i).signature,
            "llm",
            self.helper.id,
            self.helper.id,
            50,
            100,
            9,
        )


@pytest.fixture(scope="session")
def keys() -> TestMesh:
    return issue_for_tests(11)


@pytest.fixture(scope="session")
def make_rig(keys: TestMesh) -> Callable[[], Rig]:
    catalogue = Catalogue(builtin_actions(), PATHS)
    subject, helper, other = (keys.member(name).identity for name in ("subject", "helper", "other"))
    return lambda: Rig(keys, catalogue, subject, helper, other, Feeds(keys.mesh_id, Limits()))


@pytest.fixture
def rig(make_rig: Callable[[], Rig]) -> Rig:
    return make_rig()
