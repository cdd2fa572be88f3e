"""The agent of one node, without I/O: news from the mesh and answers from the host in, effects out.

Every decision hangs on a durable feed entry: the agent says something, and acts on it when it reads its own words back.
"""

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.coordinate import Coordinator
from cloudisense.agent.entries import (
    NOTE_BYTES,
    Alert,
    Body,
    Closed,
    Escalation,
    Failed,
    Help,
    Intent,
    Note,
    Offer,
    Outcome,
    StepReply,
    StepRequest,
    decode_direct,
)
from cloudisense.agent.helper import Helper
from cloudisense.agent.incident import Incident
from cloudisense.agent.ledger import Ledger, parse_body
from cloudisense.agent.memory import Lesson, Memory
from cloudisense.agent.monitor import Monitor
from cloudisense.agent.requests import Answer, Effect, Requests
from cloudisense.agent.settings import Settings
from cloudisense.agent.speech import Speech
from cloudisense.agent.words import megabytes, percent
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.given import Rng
from cloudisense.keys.identity import node_text
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.events import (
    DirectReceived,
    EntryArrived,
    EntryDelivered,
    MemberChanged,
    Misbehaved,
    NameConflict,
    RosterChanged,
    RosterRival,
)
from cloudisense.mesh.feed import Entry, Reference
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.outbound import News

ORPHAN_TURN_MS = 2_000
MISBEHAVIOUR = {
    "forked": "{} has signed two histories: it is believed no more; revoke it, and find out who else has its key",
    "over quota": "{} says more than its share of everybody's disk: what is above it is not kept",
    "cloned": "another host runs with the key of {}: nothing is granted here until one of them is stopped, and joined anew",
}


class Agent:
    """Detects, coordinates, helps and remembers for one node.

    ``boot`` is the 16-byte boot id of this host's guard, which its capabilities name; ``lessons`` are the healings of its fix history.
    """

    def __init__(
        self, mesh: Mesh, boot: bytes, catalogue: Catalogue, settings: Settings, rng: Rng, lessons: tuple[Lesson, ...] = ()
    ) -> None:
        self.memory = Memory()
        self._mesh = mesh
        self._settings = settings
        self._speech = Speech(mesh)
        self._requests = Requests()
        self._ledger = Ledger(mesh.id, self.memory, self._speech.name_of, settings.incidents)
        self._coordinator = Coordinator(mesh.id, boot, catalogue, self._speech, self._requests, self._ledger, settings, rng)
        self._helper = Helper(mesh.id, self._speech, self._requests, self.memory, settings)
        targets = tuple(sorted({path.mount for path in catalogue.paths.values()}))
        coordinator = self._coordinator
        self._monitor = Monitor(targets, self._requests, settings, coordinator.raised, coordinator.cleared, coordinator.busy)
        self._coordinator.remember_plan = self._helper.remember
        self._speech.loopback = self._direct
        self._closing: dict[Reference, str] = {}
        self._ledger.replay(mesh.feeds.all())
        self._ledger.recall(lessons)
        mesh.pruner.unfinished = self._ledger.unfinished

    # -- the seam ------------------------------------------------------------------------------------------------------

    def start(self, now: Instant) -> None:
        """Begin to watch this host, and take up what a restart interrupted."""
        self._coordinator.resume(now)
        self._monitor.start(now)
        self._catch_up(now)

    def _catch_up(self, now: Instant) -> None:
        """What was asked before a restart, or while our roster was behind, and not answered."""
        for incident in sorted(self._ledger.incidents.values(), key=lambda i: (i.opened_ms, i.id)):
            if incident.subject != self._mesh.id and incident.state in ("seeking", "offered") and self._mesh.id not in incident.offers:
                self._asked(incident, now)

    def handle_news(self, news: News, now: Instant) -> None:
        """Something happened in the mesh."""
        match news:
            case EntryArrived(entry):
                self._arrived(entry, now)
            case EntryDelivered(reference):
                self._delivered(reference, now)
            case MemberChanged(node, state):
                self._requests.notify(
                    "member", "", f"{self._speech.name_of(node)} is {state}", node=self._speech.name_of(node), state=state
                )
                if state in ("dead", "left", "agent_down"):
                    self._coordinator.lost(node, now)
                    self._orphaned(node, now)
            case NameConflict(node, other):
                name = self._speech.name_of(node)
                words = f"two nodes are called {name}: {node_text(node)[:12]} and {node_text(other)[:12]}; rename one by joining it anew"
                self._requests.notify("name", "", words, node=name)
            case Misbehaved(node, what):
                self._requests.notify("misbehaved", "", MISBEHAVIOUR[what].format(self._speech.name_of(node)), what=what)
                if what == "forked":
                    self._coordinator.lost(node, now)
            case RosterChanged(number):
                self._requests.notify("roster", "", f"roster {number} holds now", number=number)
                self._catch_up(now)
            case RosterRival(number):
                words = "the root signed two rosters beside each other; no roster changes until one is upheld: cloudisense roster uphold"
                self._requests.notify("roster", "", words, number=number)
            case DirectReceived(peer, body):
                self._direct(peer, decode_direct(body), now)

    def handle_answer(self, answer: Answer, now: Instant) -> None:
        """The host answers one of our effects."""
        self._requests.answered(answer, now)

    def handle_timer(self, now: Instant) -> None:
        """Do whatever is due."""
        while (name := self._requests.timers.pop_due(now.boot_ns)) is not None:
            self._timer(name, now)

    def next_deadline(self) -> int | None:
        """When to call ``handle_timer`` next, in boot-time nanoseconds."""
        return self._requests.timers.next()

    def poll_effects(self) -> list[Effect]:
        """What the host has to do now, in order."""
        return self._requests.poll_effects()

    @property
    def incidents(self) -> dict[str, Incident]:
        """Every incident known here."""
        return self._ledger.incidents

    # -- entries -------------------------------------------------------------------------------------------------------

    def note(self, text: str, now: Instant) -> None:
        """Tell every node's operator, signed; it is told here too once it is durable."""
        self._speech.note(text, now)

    def _arrived(self, entry: Entry, now: Instant) -> None:
        try:
            if entry.kind == "note":
                self._noted(entry)
                return
            body = parse_body(entry)
        except RemoteProtocolError as error:
            self._mesh.dropped[error.reason] += 1
            return
        asked = self._ledger.incidents.get(body.incident) if isinstance(body, Offer) else None
        if asked is not None and not self._speech.may_offer(entry.node, asked.subject):
            self._mesh.dropped["offer without the role"] += 1
            return
        incident = self._ledger.fold(entry, body) if body is not None else None
        if body is None or incident is None:
            return
        self._requests.persist(*self._ledger.rows(incident))
        self._tell(entry, incident, body)
        if incident.subject == self._mesh.id:
            self._as_subject(entry, incident, body, now)
        match body:
            case Alert() | Help():
                self._asked(incident, now)  # the call for help may have come in before the alert
            case Capability():
                self._helper.granted(incident, body, now)
            case _:
                pass

    def _asked(self, incident: Incident, now: Instant) -> None:
        may = self._speech.may_offer(self._mesh.id, incident.subject) and self._speech.may_help(incident.subject)
        if incident.help is not None and not incident.ended and may:
            self._helper.asked(incident, incident.help, now)

    def _noted(self, entry: Entry) -> None:
        note = unpack(entry.body, Note, NOTE_BYTES + 8)
        if len(note.text.encode()) > NOTE_BYTES or not note.text.isprintable():
            raise RemoteProtocolError("malformed note", entry.node)
        self._requests.notify("note", "", note.text, by=self._speech.name_of(entry.node))

    def _as_subject(self, entry: Entry, incident: Incident, body: Body | Capability, now: Instant) -> None:
        match body:
            case Alert():
                self._coordinator.alerted(incident, now)
            case Offer():
                self._coordinator.offered(incident, entry.node, body, now)
            case Intent():
                self._coordinator.intended(incident, body, now)
            case Outcome():
                self._coordinator.ended_step(incident, body, now)
            case Failed():
                self._coordinator.failed(incident, now)
            case Closed():
                self._closing[entry.reference] = incident.id
                if body.state != "escalated":
                    self._monitor.rearm(incident.kind, incident.target)
            case _:
                pass

    def _delivered(self, reference: Reference, now: Instant) -> None:
        incident = self._ledger.incidents.get(self._closing.pop(reference, ""))
        if incident is not None:
            incident.known_to_all_ms = now.wall_ms
            self._requests.persist(*self._ledger.rows(incident))
            self._requests.notify("known", incident.id, "every living node knows")

    def _direct(self, peer: bytes, message: StepRequest | StepReply, now: Instant) -> None:
        if isinstance(message, StepRequest):
            self._coordinator.step_requested(peer, message, now)
        else:
            self._helper.replied(peer, message, now)

    def _timer(self, name: object, now: Instant) -> None:
        match name:
            case ("sample", str(target)):
                self._monitor.sample(target, now)
            case ("decide", str(incident)):
                self._coordinator.decide(incident, now)
            case ("verify", str(incident)):
                self._coordinator.verify_again(incident)
            case ("limit", str(incident)):
                self._coordinator.overdue(incident, now)
            case ("orphan", str(incident)):
                self._orphan(incident, now)
            case ("lapse", str(incident), bytes(nonce)):
                self._coordinator.lapsed(incident, nonce, now)
            case ("seek", str(incident), int(round)):
                self._coordinator.unheard(incident, round, now)
            case ("step", bytes(nonce)):
                self._helper.retry(nonce, now)
            case ("ungranted", str(incident), int(round)):
                self._ungranted(incident, round, now)
            case _:
                raise LocalProtocolError(f"unknown timer {name!r}")

    def _ungranted(self, incident_id: str, round: int, now: Instant) -> None:
        """The subject has our offer and neither takes it nor ends: a human has to know. Nobody grants in its place."""
        incident = self._ledger.incidents.get(incident_id)
        if incident is not None and incident.state == "offered" and incident.help is not None and incident.help.round == round:
            self._escalate(incident, "the subject has offers and grants nothing", now)

    def _orphaned(self, subject: bytes, now: Instant) -> None:
        """A host with open incidents is gone: unless it comes back, a human has to know. Peers wait in turn, so that one speaks."""
        turn = sorted([*self._mesh.present(), self._mesh.id]).index(self._mesh.id)
        for incident in self._ledger.incidents.values():
            if incident.subject == subject and not incident.over:
                self._requests.after(("orphan", incident.id), now, self._settings.ungranted_ms + turn * ORPHAN_TURN_MS)

    def _orphan(self, incident_id: str, now: Instant) -> None:
        incident = self._ledger.incidents.get(incident_id)
        if incident is not None and not self._speech.present(incident.subject):
            self._escalate(incident, "the host is gone, and its trouble with it", now)

    def _escalate(self, incident: Incident, reason: str, now: Instant) -> None:
        if incident.subject != self._mesh.id and not incident.over:
            word = incident.last_word
            self._speech.say(Escalation(incident.id, reason, word.generation, word.number), now)

    # -- words ---------------------------------------------------------------------------------------------------------

    def _tell(self, entry: Entry, incident: Incident, body: Body | Capability) -> None:
        """The story, as this node learns it. ``by`` is who said so."""
        by = self._speech.name_of(entry.node)
        tell = self._requests.notify
        match body:
            case Alert():
                tell("alert", incident.id, body.symptom, by=by)
            case Help():
                tell("help", incident.id, f"{len(body.candidates)} candidates reach the goal of {megabytes(body.goal_bytes)}", by=by)
            case Offer():
                tell("offer", incident.id, body.plan.reasoning, by=by, plan=body.plan.signature, planner=body.planner,
                     load_ms=body.load_ms, think_ms=body.think_ms)  # fmt: skip
            case Capability():
                tell(
                    "granted",
                    incident.id,
                    f"one plan, one use, {body.lapse_ms / 1000:.0f} s",
                    by=by,
                    holder=self._speech.name_of(body.holder),
                )
            case Intent():
                tell("intent", incident.id, f"step {body.index + 1}: {body.step.action} {' '.join(v for _, v in body.step.values)}", by=by)
            case Outcome():
                tell("outcome", incident.id, f"step {body.index + 1} {body.verdict}: {body.detail}", by=by, verdict=body.verdict)
            case Failed():
                tell("failed", incident.id, body.reason, by=by, plan=body.signature)
            case Closed():
                share = percent(body.used / body.size) if body.size and body.used else ""
                tell(body.state, incident.id, body.verdict, by=by, plan=body.signature, planner=body.planner, share=share)
            case Escalation():
                tell("escalated", incident.id, body.reason, by=by)
