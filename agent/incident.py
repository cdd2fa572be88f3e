"""An incident, from the first alert to its end: one transition table, folded from feed entries alike on every node.

Feeds come in side by side, and after a restart even one author's newer feed may come before the rest of its older one. So the
fold does not hang on arrival: the state follows the subject's words in the order in which it said them; an offer belongs to its
round, whenever it comes in; a peer's escalation holds until the subject speaks again.
"""

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Literal

from cloudisense.agent.entries import Alert, Closed, Escalation, Failed, Help, Intent, Offer, Outcome
from cloudisense.keys.capability import Capability
from cloudisense.keys.identity import node_text
from cloudisense.mesh.effects import Put, Scalar
from cloudisense.mesh.feed import Entry, Reference

State = Literal["open", "seeking", "offered", "granted", "acting", "verifying", "failed", "resolved", "cleared", "escalated"]
ENDED: frozenset[str] = frozenset({"resolved", "cleared", "escalated"})

TRANSITIONS: dict[tuple[State, str], State] = {
    ("open", "help"): "seeking",
    ("seeking", "offer"): "offered",
    ("offered", "offer"): "offered",
    ("offered", "capability"): "granted",
    # The offer that was taken has not come in here yet.
    ("seeking", "capability"): "granted",
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

Word = Help | Intent | Outcome | Failed | Closed | Capability
"""What only the subject says of its incident."""

MAX_WORDS = 256
MAX_OFFERS_PER_NODE = 16


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
    alert: Reference
    state: State = "open"
    """By the subject's own words."""
    help: Help | None = None
    offers: dict[bytes, Offer] = field(default_factory=dict[bytes, Offer])
    """Of this round."""
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
    _granted: Capability | None = None
    """The first capability of this round: whose plan it is."""
    _said: list[tuple[Entry, Word]] = field(default_factory=list[tuple[Entry, Word]])
    _heard: dict[tuple[bytes, int], tuple[int, Offer]] = field(default_factory=dict[tuple[bytes, int], tuple[int, Offer]])
    _calls: dict[bytes, tuple[Entry, Escalation]] = field(default_factory=dict[bytes, tuple[Entry, Escalation]])

    @property
    def ended(self) -> bool:
        """Has the subject closed it? Then nothing changes any more."""
        return self.state in ENDED

    @property
    def call(self) -> tuple[Entry, Escalation] | None:
        """A peer's escalation that stands: the subject has said nothing since."""
        last = self.last_word
        standing = [(e, b) for e, b in self._calls.values() if (b.generation, b.number) == (last.generation, last.number)]
        return None if self.ended else min(standing, key=lambda item: (item[0].wall_ms, item[0].reference), default=None)

    @property
    def over(self) -> bool:
        """Ended, or in a human's hands until the subject speaks again."""
        return self.ended or self.call is not None

    @property
    def last_word(self) -> Reference:
        """The newest entry of the subject about this."""
        return self._said[-1][0].reference if self._said else self.alert

    @property
    def dangling(self) -> list[Intent]:
        """Steps that were begun, and nobody knows how they ended: the subject's agent died in between."""
        ended = {(b.nonce, b.index) for _, b in self._said if isinstance(b, Outcome)}
        return [b for _, b in self._said if isinstance(b, Intent) and (b.nonce, b.index) not in ended]

    def apply(self, entry: Entry, body: Word | Offer | Escalation) -> bool:
        """Fold one entry in. False when it is not its author's to say, or changes nothing now."""
        if isinstance(body, Escalation):
            return self._called(entry, body)
        if isinstance(body, Offer):
            return self._offered(entry, body)
        if entry.node != self.subject or (isinstance(body, Closed) and body.state not in ENDED):
            return False
        if len(self._said) >= MAX_WORDS and not isinstance(body, Closed):
            return False
        i = bisect_left(self._said, entry.reference, key=lambda said: said[0].reference)
        self._said.insert(i, (entry, body))
        return self._step(entry, body) if i == len(self._said) - 1 else self._fold_again(body)

    def _step(self, entry: Entry, body: Word) -> bool:
        after = TRANSITIONS.get((self.state, self._event(entry, body)))
        if after is None or not self._fits(body):
            return False
        self.state = after
        self._take(entry, body)
        return True

    def _fold_again(self, late: Word) -> bool:
        """A word of an earlier boot came in after those of a later one."""
        blank = Incident(
            self.id, self.key, self.subject, self.kind, self.target, self.fingerprint, self.symptom, self.size, self.used_before,
            self.opened_ms, self.alert,
        )  # fmt: skip
        for name in FOLDED:
            setattr(self, name, getattr(blank, name))
        taken = [body for entry, body in self._said if self._step(entry, body)]
        return any(body is late for body in taken)

    def _fits(self, body: Word) -> bool:
        """Rounds go up, and a step is of the capability that counts."""
        if isinstance(body, Help):
            return body.round > (self.help.round if self.help is not None else 0)
        if isinstance(body, Intent | Outcome):
            return self.capability is not None and self.capability.nonce == body.nonce
        return True

    def _event(self, entry: Entry, body: Word) -> str:
        if isinstance(body, Closed):
            return body.state
        if isinstance(body, Outcome) and self.capability is not None:
            return "last outcome" if body.verdict == "done" and body.index + 1 == self.capability.steps else "outcome"
        return entry.kind

    def _take(self, entry: Entry, body: Word) -> None:
        match body:
            case Help():
                self.help = body
                self.offers = {}
                self.capability = self.offer = self._granted = None
                self.planned_by = b""
                for (node, round), (wall_ms, offer) in sorted(self._heard.items(), key=lambda item: item[0]):
                    if round <= body.round:
                        self._adopt(node, wall_ms, offer)
            case Capability():
                self.capability = body
                self.capability_data = entry.data
                self.steps_done = 0
                self.granted_ms = entry.wall_ms
                self._granted = self._granted or body
                self._find_author()
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
            case Intent():
                pass

    def _offered(self, entry: Entry, offer: Offer) -> bool:
        """One offer per helper and round counts: the first in its feed."""
        if (entry.node, offer.round) in self._heard or sum(node == entry.node for node, _ in self._heard) >= MAX_OFFERS_PER_NODE:
            return False
        self._heard[entry.node, offer.round] = (entry.wall_ms, offer)
        if self.help is None or offer.round > self.help.round:
            return False
        self._adopt(entry.node, entry.wall_ms, offer)
        return offer.round == self.help.round

    def _adopt(self, node: bytes, wall_ms: int, offer: Offer) -> None:
        self.offered_ms = min(self.offered_ms or wall_ms, wall_ms)
        if self.help is None or offer.round != self.help.round:
            return
        self.state = TRANSITIONS.get((self.state, "offer"), self.state)
        self.offers[node] = offer
        self._find_author()

    def _find_author(self) -> None:
        """Whose plan was granted: the holder's own, if it offered this one. A capability for the rest of a plan changes nothing here."""
        granted = self._granted
        if granted is None:
            return
        authors = [node for node in sorted(self.offers) if self.offers[node].plan.hash == granted.plan_hash]
        if authors:
            self.planned_by = granted.holder if granted.holder in authors else authors[0]
            self.offer = self.offers[self.planned_by]

    def _called(self, entry: Entry, call: Escalation) -> bool:
        known = self._calls.get(entry.node)
        if entry.node == self.subject or (known is not None and known[0].reference > entry.reference):
            return False
        self._calls[entry.node] = (entry, call)
        return self.call == (entry, call)

    def row(self, name: str) -> Put:
        """The incident as the command line shows it. ``name`` is the subject's."""
        offer, call = self.offer, self.call
        row: dict[str, Scalar] = {
            "id": self.id,
            "subject": name,
            "kind": self.kind,
            "target": self.target,
            "state": self.state if call is None else "escalated",
            "opened_ms": self.opened_ms,
            "offered_ms": self.offered_ms,
            "granted_ms": self.granted_ms,
            "acted_ms": self.acted_ms,
            "closed_ms": self.closed_ms if call is None else call[0].wall_ms,
            "known_to_all_ms": self.known_to_all_ms,
            "planned_by": node_text(self.planned_by) if self.planned_by else "",
            "acted_by": node_text(self.capability.holder) if self.capability else "",
            "authorised_by": node_text(self.subject) if self.capability else "",
            "planner": offer.planner if offer else "",
            "plan": offer.plan.signature if offer else "",
            "reasoning": offer.plan.reasoning if offer else "",
            "verdict": self.verdict if call is None else call[1].reason,
            "escalated_to": "operator" if self.state == "escalated" or call is not None else "",
            "findings": self.symptom,
            "used_before": self.used_before,
            "used_after": self.used_after,
            "size": self.size,
            "failed_plans": "; ".join(f"{f.signature}: {f.reason}" for f in self.failed),
        }
        return Put("incidents", row)


FOLDED = (
    "state", "help", "offers", "failed", "capability", "capability_data", "offer", "planned_by", "steps_done", "outcomes",
    "used_after", "verdict", "offered_ms", "granted_ms", "acted_ms", "closed_ms", "_granted",
)  # fmt: skip
"""What is folded from the words, and so can be folded again."""


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
        entry.reference,
    )
