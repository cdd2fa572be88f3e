"""All incidents that this node knows, folded from the feeds, and the fix history that they teach."""

from collections import Counter
from collections.abc import Callable, Iterable

from cloudisense.agent.entries import KINDS, Alert, Body, Closed, Failed
from cloudisense.agent.incident import Incident, incident_id, incident_key, opened
from cloudisense.agent.memory import Lesson, Memory
from cloudisense.keys.capability import Capability, check_capability
from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import node_text
from cloudisense.mesh.effects import Put
from cloudisense.mesh.feed import Entry, Reference

ENTRY_BYTES = 8192
MAX_EARLY = 1024
"""Entries kept of incidents whose alert has not come in yet."""


def parse_body(entry: Entry) -> Body | Capability | None:
    """The body of an entry that agents act on; ``None`` for kinds of a later version. Raises ``RemoteProtocolError``."""
    if not 0 <= entry.wall_ms < 2**53:
        raise RemoteProtocolError("malformed entry")
    if entry.kind == "capability":
        return check_capability(entry.body)
    kind = KINDS.get(entry.kind)
    return unpack(entry.body, kind, ENTRY_BYTES) if kind is not None else None


class Ledger:
    """Incidents by id, and the memory of what healed them. ``name_of`` gives a node's name for people."""

    def __init__(self, own: bytes, memory: Memory, name_of: Callable[[bytes], str], limit: int) -> None:
        self.incidents: dict[str, Incident] = {}
        self._own = own
        self._memory = memory
        self._name_of = name_of
        self._limit = limit
        self._early: list[tuple[Entry, Body | Capability]] = []

    def replay(self, entries: Iterable[Entry]) -> None:
        """Fold what was stored before this start: in the order of the authors' clocks, and each author's in its own."""
        latest: dict[bytes, int] = {}
        order: list[tuple[int, Reference, Entry]] = []
        for entry in sorted(entries, key=lambda e: e.reference):
            # A clock that was set back must not turn an author's words around.
            latest[entry.node] = max(latest.get(entry.node, 0), entry.wall_ms)
            order.append((latest[entry.node], entry.reference, entry))
        for _, _, entry in sorted(order, key=lambda item: item[:2]):
            try:
                if (body := parse_body(entry)) is not None:
                    self.fold(entry, body)
            except RemoteProtocolError:
                continue  # it was counted when it came in

    def recall(self, lessons: Iterable[Lesson]) -> None:
        """What the fix history knows of incidents whose entries are pruned. Call it after ``replay``."""
        for lesson in lessons:
            if lesson.incident not in self.incidents:
                self._memory.learn(lesson.fingerprint, lesson.signature, True, lesson.own, lesson.at_ms)

    def fold(self, entry: Entry, body: Body | Capability) -> Incident | None:
        """Apply one entry; the incident that it changed, or ``None`` when it changed nothing."""
        if isinstance(body, Alert):
            return self._open(entry, body)
        incident = self.incidents.get(body.incident)
        if incident is None:
            self._early = [*self._early[-MAX_EARLY + 1 :], (entry, body)]
            return None
        if not incident.apply(entry, body):
            return None
        if isinstance(body, Closed | Failed):
            self._learn(incident, body, entry)
        return incident

    def _open(self, entry: Entry, alert: Alert) -> Incident | None:
        """An incident is its subject's: nobody can open one under another's key, or take its id before it."""
        key = incident_key(entry.node, alert.kind, alert.target)
        if alert.key != key or alert.incident != incident_id(key, entry.wall_ms) or alert.incident in self.incidents:
            return None
        self._make_room(entry.node)
        incident = self.incidents[alert.incident] = opened(entry, alert)
        early, self._early = self._early, []
        for entry, body in early:
            if body.incident == incident.id:
                self.fold(entry, body)
            else:
                self._early.append((entry, body))
        return incident

    def _learn(self, incident: Incident, body: Closed | Failed, entry: Entry) -> None:
        if isinstance(body, Failed):
            holder = incident.capability.holder if incident.capability is not None else b""
            if body.signature:
                own = self._own in (incident.subject, holder)
                self._memory.learn(incident.fingerprint, body.signature, False, own, entry.wall_ms)
        elif body.state == "resolved" and body.signature:
            own = self._own in (incident.subject, body.planned_by, body.acted_by)
            self._memory.learn(incident.fingerprint, body.signature, True, own, entry.wall_ms)

    def unfinished(self, entry: Entry) -> bool:
        """Does ``entry`` belong to an incident that has not ended here? Such entries are never pruned."""
        try:
            body = parse_body(entry)
        except RemoteProtocolError:
            return False
        incident = self.incidents.get(body.incident) if body is not None else None
        return incident is not None and not incident.ended

    def rows(self, incident: Incident) -> list[Put]:
        """The incident, and once it has ended its line in the fix history, as the store keeps them."""
        rows = [incident.row(self._name_of(incident.subject))]
        if incident.ended and incident.offer is not None and incident.capability is not None:
            rows.append(
                Put(
                    "history",
                    {
                        "incident": incident.id,
                        "node": node_text(incident.subject),
                        "subject": self._name_of(incident.subject),
                        "fingerprint": incident.fingerprint,
                        "signature": incident.offer.plan.signature,
                        "action": incident.offer.plan.steps[0].action,
                        "outcome": incident.state,
                        "ms_to_heal": max(0, incident.closed_ms - incident.opened_ms),
                        "planned_by": node_text(incident.planned_by),
                        "acted_by": node_text(incident.capability.holder),
                        "planner": incident.offer.planner,
                        "evidence": incident.symptom,
                        "plan": "; ".join(f"{s.action} {dict(s.values)}" for s in incident.offer.plan.steps),
                        "at": incident.closed_ms,
                    },
                )
            )
        return rows

    def open_with_key(self, key: str) -> Incident | None:
        """The incident of this trouble that has not ended, if there is one."""
        return next((i for i in self.incidents.values() if i.key == key and not i.ended), None)

    def resolved_since(self, key: str, since_ms: int) -> int:
        """How often this trouble was healed since then: recurrences."""
        return sum(i.key == key and i.state == "resolved" and i.closed_ms >= since_ms for i in self.incidents.values())

    def _make_room(self, subject: bytes) -> None:
        """Ended ones go first, then those of whoever has the most open, ourselves last: no flood drives out others' incidents."""
        if len(self.incidents) < self._limit:
            return
        counts = Counter([subject, *(i.subject for i in self.incidents.values() if not i.ended)])
        oldest = min(self.incidents.values(), key=lambda i: (not i.ended, i.subject == self._own, -counts[i.subject], i.opened_ms, i.id))
        del self.incidents[oldest.id]
