"""All incidents that this node knows, folded from the feeds, and the fix history that they teach."""

from collections.abc import Callable, Iterable

from cloudisense.agent.entries import KINDS, Alert, Body, Closed, Failed
from cloudisense.agent.incident import Incident, opened
from cloudisense.agent.memory import Memory
from cloudisense.keys.capability import Capability, check_capability
from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import node_text
from cloudisense.mesh.effects import Put
from cloudisense.mesh.feed import Entry

ENTRY_BYTES = 8192


def parse_body(entry: Entry) -> Body | Capability | None:
    """The body of an entry that agents act on; ``None`` for kinds of a later version. Raises ``RemoteProtocolError``."""
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

    def replay(self, entries: Iterable[Entry]) -> None:
        """Fold what was stored before this start, in the order of the authors' clocks."""
        for entry in sorted(entries, key=lambda e: (e.wall_ms, e.reference)):
            try:
                if (body := parse_body(entry)) is not None:
                    self.fold(entry, body)
            except RemoteProtocolError:
                continue  # it was counted when it came in

    def fold(self, entry: Entry, body: Body | Capability) -> Incident | None:
        """Apply one entry; the incident that it changed, or ``None`` when it changed nothing."""
        if isinstance(body, Alert):
            if body.incident in self.incidents:
                return None
            self._make_room()
            incident = self.incidents[body.incident] = opened(entry, body)
            return incident
        incident = self.incidents.get(body.incident)
        if incident is None or not incident.apply(entry, body):
            return None
        if isinstance(body, Closed | Failed):
            self._learn(incident, body, entry)
        return incident

    def _learn(self, incident: Incident, body: Closed | Failed, entry: Entry) -> None:
        holder = incident.capability.holder if incident.capability is not None else b""
        own = self._own in (incident.subject, incident.planned_by, holder)
        if isinstance(body, Failed):
            if body.signature:
                self._memory.learn(incident.fingerprint, body.signature, False, own, entry.wall_ms)
        elif body.state == "resolved" and body.signature:
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

    def _make_room(self) -> None:
        if len(self.incidents) >= self._limit:
            oldest = min(self.incidents.values(), key=lambda i: (not i.ended, i.opened_ms, i.id))
            del self.incidents[oldest.id]
