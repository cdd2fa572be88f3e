"""An incident, from the first alert to its end: one transition table, folded from feed entries alike on every node."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from cloudisense.agent.entries import Alert, Closed, Escalation, Failed, Help, Intent, Offer, Outcome
from cloudisense.keys.capability import Capability
from cloudisense.keys.identity import node_text
from cloudisense.mesh.effects import Put, Scalar
from cloudisense.mesh.feed import Entry

State = Literal["open", "seeking", "offered", "granted", "acting", "verifying", "failed", "resolved", "cleared", "escalated"]
ENDED: frozenset[str] = frozenset({"resolved", "cleared", "escalated"})

TRANSITIONS: dict[tuple[State, str], State] = {
    ("open", "help"): "seeking",
    ("seeking", "offer"): "offered",
    ("offered", "offer"): "offered",
    ("offered", "capability"): "granted",
    ("granted", "intent"): "acting",
    ("acting", "intent"): "acting",
    ("acting", "outcome"): "acting",
    ("acting", "last outcome"): "verifying",
    # The holder died or the capability lapsed: the subject goes on under a capability of its own.
    ("granted", "capability"): "granted",
    ("acting", "capability"): "granted",
    ("granted", "failed"): "failed",
    ("acting", "failed"): "failed",
    ("verifying", "failed"): "failed",
    ("offered", "failed"): "failed",
    ("failed", "help"): "seeking",
    # Restarted in mid-flight: the new boot seeks again; capabilities of the old one are void.
    ("seeking", "help"): "seeking",
    ("offered", "help"): "seeking",
    ("granted", "help"): "seeking",
    ("acting", "help"): "seeking",
    ("verifying", "help"): "seeking",
    **{
        (state, end): end
        for state in ("open", "seeking", "offered", "granted", "acting", "verifying", "failed")
        for end in ("resolved", "cleared", "escalated")
    },
}
"""(state, what happened) -> state. What is not here is not possible and changes nothing."""


def incident_key(subject: bytes, kind: str, target: str) -> str:
    """The same for every report of one trouble, whoever makes it."""
    return hashlib.sha256(b"|".join([subject, kind.encode(), target.encode()])).hexdigest()[:16]


def incident_id(key: str, opened_ms: int) -> str:
    """One occurrence of the trouble ``key``."""
    return hashlib.sha256(f"{key}|{opened_ms}".encode()).hexdigest()[:12]


@dataclass(slots=True)
class Incident:
    """What is known of one incident here. Times are Unix milliseconds from the entries of those who acted; 0 is "not yet"."""

    id: str
    key: str
    subject: bytes
    kind: str
    target: str
    fingerprint: str
    symptom: str
    size: int
    used_before: int
    opened_ms: int
    state: State = "open"
    help: Help | None = None
    offers: dict[bytes, Offer] = field(default_factory=dict[bytes, Offer])
    failed: list[Failed] = field(default_factory=list[Failed])
    capability: Capability | None = None
    capability_data: bytes = b""
    offer: Offer | None = None
    planned_by: bytes = b""
    steps_done: int = 0
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    used_after: int = 0
    verdict: str = ""
    offered_ms: int = 0
    granted_ms: int = 0
    acted_ms: int = 0
    closed_ms: int = 0
    known_to_all_ms: int = 0

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def apply(self, entry: Entry, body: Help | Offer | Intent | Outcome | Failed | Closed | Escalation | Capability) -> bool:
        """Fold one entry in. False when it is not its author's to say, or not possible now."""
        if not isinstance(body, Offer | Escalation) and entry.node != self.subject:
            return False
        if isinstance(body, Closed) and body.state not in ENDED:
            return False
        event = self._event(entry, body)
        after = TRANSITIONS.get((self.state, event))
        if after is None:
            return False
        if isinstance(body, Offer) and (self.help is None or body.round != self.help.round):
            return False
        self._take(entry, body)
        self.state = after
        return True

    def _event(self, entry: Entry, body: object) -> str:
        if isinstance(body, Closed):
            return body.state
        if isinstance(body, Escalation):
            return "escalated"
        if isinstance(body, Outcome) and self.capability is not None:
            return "last outcome" if body.verdict == "done" and body.index + 1 == self.capability.steps else "outcome"
        return entry.kind

    def _take(self, entry: Entry, body: object) -> None:
        match body:
            case Help():
                self.help = body
                self.offers = {}
                self.capability = self.offer = None
            case Offer():
                self.offers[entry.node] = body
                self.offered_ms = self.offered_ms or entry.wall_ms
            case Capability():
                self.capability = body
                self.capability_data = entry.data
                self.steps_done = 0
                self.granted_ms = entry.wall_ms
                self._author_of(body)
            case Outcome():
                self.outcomes.append(body)
                self.steps_done += body.verdict == "done"
                self.acted_ms = entry.wall_ms
            case Failed():
                self.failed.append(body)
            case Closed():
                self.verdict = body.verdict
                self.used_after = body.used
                self.closed_ms = entry.wall_ms
            case Escalation():
                self.verdict = body.reason
                self.closed_ms = entry.wall_ms
            case _:
                pass

    def _author_of(self, capability: Capability) -> None:
        """Whose plan was granted; a capability for the rest of a plan keeps the plan's author."""
        for node in sorted(self.offers):
            if self.offers[node].plan.hash == capability.plan_hash:
                self.offer, self.planned_by = self.offers[node], node

    def row(self, name: str) -> Put:
        """The incident as the command line shows it. ``name`` is the subject's."""
        offer = self.offer
        row: dict[str, Scalar] = {
            "id": self.id,
            "subject": name,
            "kind": self.kind,
            "target": self.target,
            "state": self.state,
            "opened_ms": self.opened_ms,
            "offered_ms": self.offered_ms,
            "granted_ms": self.granted_ms,
            "acted_ms": self.acted_ms,
            "closed_ms": self.closed_ms,
            "known_to_all_ms": self.known_to_all_ms,
            "planned_by": node_text(self.planned_by) if self.planned_by else "",
            "acted_by": node_text(self.capability.holder) if self.capability else "",
            "authorised_by": node_text(self.subject) if self.capability else "",
            "planner": offer.planner if offer else "",
            "plan": offer.plan.signature if offer else "",
            "reasoning": offer.plan.reasoning if offer else "",
            "verdict": self.verdict,
            "escalated_to": "operator" if self.state == "escalated" else "",
            "findings": self.symptom,
            "used_before": self.used_before,
            "used_after": self.used_after,
            "size": self.size,
            "failed_plans": "; ".join(f"{f.signature}: {f.reason}" for f in self.failed),
        }
        return Put("incidents", row)


def opened(entry: Entry, alert: Alert) -> Incident:
    """A new incident from its subject's alert."""
    return Incident(
        alert.incident,
        alert.key,
        entry.node,
        alert.kind,
        alert.target,
        alert.fingerprint,
        alert.symptom,
        alert.size,
        alert.used,
        entry.wall_ms,
    )
