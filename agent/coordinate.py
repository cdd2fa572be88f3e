"""The subject's side of its own incidents: measure, ask, choose, grant, watch the steps, verify, close (DESIGN section 3.3).

The subject is the grantor while it is alive. It grants only plans made of the candidates that it measured itself.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cloudisense.agent.candidates import candidates_for
from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.detect import RULES, Rule
from cloudisense.agent.entries import Alert, Closed, Failed, Help, Intent, Offer, Outcome, StepReply, StepRequest
from cloudisense.agent.events import Estimated, FileSystem, Sampled, StepDone
from cloudisense.agent.gate import LAPSED
from cloudisense.agent.incident import Incident, incident_id, incident_key
from cloudisense.agent.ledger import Ledger
from cloudisense.agent.plan import Measured, Plan, Step
from cloudisense.agent.requests import Requests
from cloudisense.agent.settings import Settings
from cloudisense.agent.speech import Speech
from cloudisense.agent.words import megabytes, percent
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import Refused, invariant
from cloudisense.keys.given import Rng
from cloudisense.mesh.instant import NS_PER_MS, Instant

HELP_BYTES = 6000
"""An entry holds 8 KiB, and the offer that answers has to hold one candidate and its reasons."""
PLANNER_RANK = {"memory": 2, "rules": 1, "llm": 0}


@dataclass(slots=True)
class Case:
    """What only the subject needs to know of its own incident, for this boot."""

    rule: Rule
    round: int = 0
    nonce: bytes = b""
    """Of the newest capability of this round, from the moment that it was said."""
    plan: Plan | None = None
    plan_bytes: bytes = b""
    requester: bytes = b""
    running: bool = False
    replies: dict[int, StepReply] = field(default_factory=dict[int, StepReply])
    reading: FileSystem | None = None


class Coordinator:
    """All open incidents of which this node is the subject."""

    def __init__(
        self,
        own: bytes,
        boot: bytes,
        catalogue: Catalogue,
        speech: Speech,
        requests: Requests,
        ledger: Ledger,
        settings: Settings,
        rng: Rng,
    ) -> None:
        self.remember_plan: Callable[[Plan], None] = lambda plan: None
        self._own = own
        self._boot = boot
        self._catalogue = catalogue
        self._speech = speech
        self._requests = requests
        self._ledger = ledger
        self._settings = settings
        self._rng = rng
        self._cases: dict[str, Case] = {}
        self._verifying: dict[str, Callable[[], None]] = {}

    def busy(self, target: str) -> bool:
        """Is an incident on this target under way? Then it is read more often."""
        return any(self._ledger.incidents[i].target == target for i in self._cases if i in self._ledger.incidents)

    # -- from finding to help request ----------------------------------------------------------------------------------

    def raised(self, rule: Rule, target: str, reading: FileSystem, now: Instant) -> bool:
        """A detector fired: open an incident, unless this trouble has one. False when nothing may be said of it now (over quota)."""
        key = incident_key(self._own, rule.kind, target)
        if self._ledger.open_with_key(key) is not None:
            return True
        roles = sorted({p.role for p in self._catalogue.paths.values() if p.mount == target})
        share, used, size = rule.share(reading), reading.used, reading.size
        symptom = f"{target} is {percent(share)} full ({rule.metric}): {megabytes(used)} of {megabytes(size)} used"
        alert = Alert(
            incident_id(key, now.wall_ms), key, rule.kind, target, f"{rule.kind} roles={','.join(roles)}",
            symptom, size, used, reading.inodes, reading.inodes_used,
        )  # fmt: skip
        self._begin(alert.incident, Case(rule), now)
        if self._speech.say(alert, now) is None:
            del self._cases[alert.incident]
            self._requests.timers.cancel(("limit", alert.incident))
            return False
        return True

    def _begin(self, incident_id: str, case: Case, now: Instant) -> None:
        self._cases[incident_id] = case
        self._requests.after(("limit", incident_id), now, self._settings.incident_ms)

    def resume(self, now: Instant) -> None:
        """After a restart: say how steps ended that nobody saw end, then check the postcondition of what is open, before anything else.

        Nothing is run again blindly: what is still wrong is measured anew, and needs a new plan and a new capability.
        """
        for incident in sorted(self._ledger.incidents.values(), key=lambda i: (i.opened_ms, i.id)):
            if incident.subject != self._own:
                continue
            begun = incident.state in ("acting", "verifying")
            for intent in incident.dangling:
                detail = "the agent was restarted before this step ended"
                self._speech.say(Outcome(incident.id, intent.nonce, intent.index, "failed", detail, 0), now)
            if incident.ended:
                continue
            rule = next((rule for rule in RULES if rule.kind == incident.kind), None)
            if rule is None or all(path.mount != incident.target for path in self._catalogue.paths.values()):
                self._say_closed(incident, "escalated", f"{incident.target} is not watched here any more", None, now)
                continue
            self._begin(incident.id, Case(rule, round=incident.help.round if incident.help else 0), now)
            self._verify(
                incident,
                now,
                self._resolve if begun else self._clear,
                lambda _, later, incident=incident: self._measure(incident, later),
            )

    def _clear(self, incident: Incident, reading: FileSystem, now: Instant) -> None:
        self._close(incident, "cleared", f"cleared by itself: {percent(self._cases[incident.id].rule.share(reading))}", reading, now)

    def cleared(self, rule: Rule, target: str, reading: FileSystem, now: Instant) -> None:
        """A detector re-armed. An incident that nobody acts on yet has cleared by itself."""
        incident = self._ledger.open_with_key(incident_key(self._own, rule.kind, target))
        if incident is not None and incident.state in ("open", "seeking", "offered", "failed"):
            self._close(incident, "cleared", f"cleared by itself: {percent(rule.share(reading))}", reading, now)

    def alerted(self, incident: Incident, now: Instant) -> None:
        """Our alert is out."""
        since_ms = now.wall_ms - self._settings.recurrence_ms
        if self._ledger.resolved_since(incident.key, since_ms) >= self._settings.recurrences:
            self._close(incident, "escalated", f"back again after {self._settings.recurrences} fixes: the cause is elsewhere", None, now)
        else:
            self._measure(incident, now)

    def _measure(self, incident: Incident, now: Instant) -> None:
        """Measure how much has to go and what each action would free, then ask for plans."""
        case = self._cases.get(incident.id)
        steps = self._catalogue.steps_for(incident.kind, incident.target)

        def sampled(sample: Sampled, later: Instant) -> None:
            if case is None or self._cases.get(incident.id) is not case:
                return  # it ended meanwhile
            if sample.reading is None:
                self._close(incident, "escalated", f"cannot read {incident.target}: {sample.error}", None, later)
                return
            if case.rule.share(sample.reading) < case.rule.clear_at:
                self._clear(incident, sample.reading, later)
                return
            case.reading = sample.reading
            self._requests.estimate(steps, lambda answer, then: self._seek(incident, steps, answer, then))

        self._requests.sample(incident.target, sampled)

    def _seek(self, incident: Incident, steps: tuple[Step, ...], answer: Estimated, now: Instant) -> None:
        case = self._cases.get(incident.id)
        if case is None or case.reading is None:
            return
        case.round += 1
        case.nonce = b""
        goal = case.rule.goal(case.reading)
        goals = (goal, 0) if case.rule.metric == "bytes" else (0, goal)
        measured = tuple(zip(steps, answer.measured, strict=True))
        excluded = frozenset(failed.signature for failed in incident.failed)
        candidates = candidates_for(self._catalogue, measured, *goals, excluded)
        self._tell_dropped(incident, measured, {step for c in candidates for step in c.steps}, goal)
        if not candidates:
            # Measuring takes a while on a large tree: is it still so?
            why, reading = "nothing in the catalogue would free enough here", case.reading
            self._verify(incident, now, self._clear, lambda _, later: self._close(incident, "escalated", why, reading, later))
        elif case.round > self._settings.rounds:
            self._close(incident, "escalated", f"{self._settings.rounds} plans did not heal it", case.reading, now)
        else:
            help = Help(incident.id, case.round, *goals, candidates)
            while len(pack(help)) > HELP_BYTES and len(help.candidates) > 1:
                help = Help(incident.id, case.round, *goals, help.candidates[:-1])  # the mildest stay
            if len(pack(help)) > HELP_BYTES:
                self._close(incident, "escalated", "what could be done here is too long to say", case.reading, now)
                return
            self._speech.say(help, now)
            self._requests.after(("seek", incident.id, case.round), now, self._settings.seek_ms)

    def _tell_dropped(self, incident: Incident, measured: tuple[tuple[Step, Measured], ...], kept: set[Step], goal: int) -> None:
        for step, m in measured:
            verb = "candidate" if step in kept else "dropped"
            why = "" if step in kept else f", {megabytes(goal)} needed" if m.frees_bytes else ", nothing to do"
            self._requests.notify(verb, incident.id, f"{self._catalogue.title(step).rstrip('.')}: frees {megabytes(m.frees_bytes)}{why}")

    # -- from offers to a grant ----------------------------------------------------------------------------------------

    def offered(self, incident: Incident, helper: bytes, offer: Offer, now: Instant) -> None:
        """An offer came in. What our own memory or rules know needs no waiting for others."""
        case = self._cases.get(incident.id)
        if case is None or case.nonce or incident.state != "offered":
            return
        if helper == self._own and offer.planner != "llm":
            self._decide(incident, now)
        elif ("decide", incident.id) not in self._requests.timers:
            self._requests.after(("decide", incident.id), now, self._settings.decide_ms)

    def decide(self, incident_id: str, now: Instant) -> None:
        """Offers had time to come in."""
        incident = self._ledger.incidents.get(incident_id)
        case = self._cases.get(incident_id)
        if incident is not None and incident.state == "offered" and case is not None and not case.nonce:
            self._decide(incident, now)

    def _decide(self, incident: Incident, now: Instant) -> None:
        self._requests.timers.cancel(("decide", incident.id))
        acceptable: list[tuple[tuple[int, float, bool, bytes], bytes, Offer]] = []
        for helper, offer in sorted(incident.offers.items()):
            refusal = self.check(incident, helper, offer)
            if refusal is None:
                merit = (PLANNER_RANK[offer.planner], offer.confidence, helper == self._own, helper)
                acceptable.append((merit, helper, offer))
            else:
                self._requests.notify("refused", incident.id, f"offer of {self._speech.name_of(helper)}: {refusal.reason}")
        if acceptable:
            _, helper, offer = max(acceptable, key=lambda item: item[0])
            holder = self._speech.holder_for(helper)
            if holder == self._own:
                self.remember_plan(offer.plan)
            self._grant(incident, holder, offer.plan, now)
        elif self._speech.behind:
            self._requests.after(("decide", incident.id), now, self._settings.decide_ms)

    def check(self, incident: Incident, helper: bytes, offer: Offer) -> Refused | None:
        """Our own policy on an offer; ``None`` when it may be granted."""
        plan = offer.plan
        if offer.planner not in PLANNER_RANK or not 0 <= offer.confidence <= 1:
            return Refused("malformed offer")
        if not self._speech.may_act(self._speech.holder_for(helper)):
            return Refused("this node may not act for others")
        if plan.gate != self._own or plan.incident != incident.id:
            return Refused("the plan is for something else")
        if incident.help is None or all((c.steps, c.signature) != (plan.steps, plan.signature) for c in incident.help.candidates):
            return Refused("the plan is not one of the candidates that were measured here")
        if any(failed.signature == plan.signature for failed in incident.failed):
            return Refused("this plan already failed")
        for step in plan.steps:
            action = self._catalogue.check(step)
            if isinstance(action, Refused):
                return action
            if self._settings.mode.get(action.risk, "observe") != "act":
                return Refused(f"{action.risk} actions are not allowed here")
        return None

    def _grant(self, incident: Incident, holder: bytes, plan: Plan, now: Instant) -> None:
        case = self._cases[incident.id]
        case.plan, case.plan_bytes, case.replies, case.running = plan, pack(plan), {}, False
        lapse_ms = self._settings.lapse_ms + len(plan.steps) * self._settings.lapse_per_step_ms
        capability = Capability(
            self._rng.randbytes(16),
            incident.id,
            plan.hash,
            holder,
            self._own,
            self._boot,
            len(plan.steps),
            now.boot_ns // 1_000_000,
            lapse_ms,
        )
        case.nonce = capability.nonce
        self._speech.say(capability, now)
        self._requests.after(("lapse", incident.id, capability.nonce), now, lapse_ms)

    # -- steps at our gate ---------------------------------------------------------------------------------------------

    def step_requested(self, peer: bytes, request: StepRequest, now: Instant) -> None:
        """The holder asks for its next step. Asking again for one that ran repeats the answer, never the step."""
        incident = self._ledger.incidents.get(request.incident)
        case = self._cases.get(request.incident)
        if incident is None or case is None or incident.capability is None:
            return
        if incident.capability.nonce != request.nonce or incident.capability.holder != peer:
            return
        if not self._speech.may_offer(peer, self._own) or not self._speech.may_help(peer):
            return  # its role was taken away since, or may have been
        if (reply := case.replies.get(request.index)) is not None:
            self._speech.send(peer, reply, now)
            return
        if case.running or incident.state not in ("granted", "acting") or request.index != len(case.replies):
            return
        if case.plan is None or request.index >= len(case.plan.steps):
            return
        if now.boot_ns > (incident.capability.granted_ms + incident.capability.lapse_ms) * NS_PER_MS:
            return  # too late for the gate: what is left is ours, once the lapse comes up
        case.running = True
        case.plan_bytes = request.plan
        case.requester = peer
        self._speech.say(Intent(incident.id, request.nonce, request.index, case.plan.steps[request.index]), now)

    def intended(self, incident: Incident, intent: Intent, now: Instant) -> None:
        """Our intent is durable: now the guard may run the step."""
        case = self._cases.get(incident.id)
        if case is None or incident.capability is None or not case.running or incident.capability.nonce != intent.nonce:
            return
        self._requests.run_step(
            case.requester,
            incident.capability_data,
            case.plan_bytes,
            intent.index,
            lambda done, later: self._ran(incident, intent, done, later),
        )

    def _ran(self, incident: Incident, intent: Intent, done: StepDone, now: Instant) -> None:
        self._speech.say(Outcome(incident.id, intent.nonce, intent.index, done.verdict, done.detail, done.freed_bytes), now)

    def ended_step(self, incident: Incident, outcome: Outcome, now: Instant) -> None:
        """Our outcome is durable: answer the holder; after the last step, verify."""
        case = self._cases.get(incident.id)
        if case is None or not case.running or incident.capability is None or incident.capability.nonce != outcome.nonce:
            return
        case.running = False
        reply = case.replies[outcome.index] = StepReply(outcome.nonce, outcome.index, outcome.verdict, outcome.detail)
        self._speech.send(incident.capability.holder, reply, now)
        if outcome.verdict == "refused" and outcome.detail == LAPSED:
            return  # the plan is as good as it was: what is left is ours, once the lapse comes up
        if outcome.verdict != "done":
            self._fail(incident, f"step {outcome.index + 1} {outcome.verdict}: {outcome.detail}", now)
        elif outcome.index + 1 == incident.capability.steps:
            self._requests.timers.cancel(("lapse", incident.id, outcome.nonce))
            self._verify(incident, now, self._resolve, lambda why, later: self._fail(incident, why, later))

    # -- verification --------------------------------------------------------------------------------------------------

    def _verify(
        self, incident: Incident, now: Instant, good: Callable[[Incident, FileSystem, Instant], None], bad: Callable[[str, Instant], None]
    ) -> None:
        """Measure, several times: what the executor says it did is not a verification."""
        case = self._cases[incident.id]
        left = self._settings.verify_samples

        def sampled(sample: Sampled, later: Instant) -> None:
            nonlocal left
            if self._cases.get(incident.id) is not case:
                return  # it ended meanwhile
            if sample.reading is None:
                bad(f"verification: cannot read {incident.target}: {sample.error}", later)
                return
            share = case.rule.share(sample.reading)
            self._requests.notify("measured", incident.id, f"{incident.target} is at {percent(share)}")
            left -= 1
            if share >= case.rule.clear_at:
                bad(f"verification: still {percent(share)}", later)
            elif left == 0:
                good(incident, sample.reading, later)
            else:
                self._verifying[incident.id] = lambda: self._requests.sample(incident.target, sampled)
                self._requests.after(("verify", incident.id), later, self._settings.verify_gap_ms)

        self._requests.sample(incident.target, sampled)

    def verify_again(self, incident_id: str) -> None:
        """Time for the next sample of a verification."""
        if (again := self._verifying.pop(incident_id, None)) is not None:
            again()

    def _resolve(self, incident: Incident, reading: FileSystem, now: Instant) -> None:
        case = self._cases[incident.id]
        self._close(
            incident, "resolved", f"measured {percent(case.rule.share(reading))}, {self._settings.verify_samples} times", reading, now
        )

    def _fail(self, incident: Incident, reason: str, now: Instant) -> None:
        case = self._cases[incident.id]
        self._requests.timers.cancel(("lapse", incident.id, case.nonce))
        signature = case.plan.signature if case.plan is not None else ""
        planner = incident.offer.planner if incident.offer is not None else ""
        self._speech.say(Failed(incident.id, signature, planner, reason), now)

    def failed(self, incident: Incident, now: Instant) -> None:
        """Our failure is on record: the next plan."""
        if incident.id in self._cases:
            self._measure(incident, now)

    # -- lapses and endings --------------------------------------------------------------------------------------------

    def lapsed(self, incident_id: str, nonce: bytes, now: Instant) -> None:
        """A capability ran out before its plan was done: check the postcondition, then do the steps that are left ourselves."""
        incident = self._ledger.incidents.get(incident_id)
        case = self._cases.get(incident_id)
        if incident is None or case is None or case.nonce != nonce or incident.state not in ("offered", "granted", "acting"):
            return
        if case.running or incident.capability is None or incident.capability.nonce != nonce:
            # A step is under way, or the grant itself is not durable yet.
            self._requests.after(("lapse", incident_id, nonce), now, self._settings.lapse_per_step_ms)
            return
        holder = self._speech.name_of(incident.capability.holder)
        self._requests.notify("lapsed", incident_id, f"the capability of {holder} lapsed after {incident.steps_done} steps", holder=holder)
        self._requests.timers.cancel(("lapse", incident_id, nonce))
        case.running = True  # no step of the old capability begins any more
        self._verify(incident, now, self._resolve, lambda _, later: self._take_over(incident, later))

    def _take_over(self, incident: Incident, now: Instant) -> None:
        case = self._cases[incident.id]
        invariant(incident.capability is not None and case.plan is not None, "a plan that lapsed was granted")
        if case.plan is None or incident.capability is None:
            return
        rest = case.plan.steps[incident.steps_done :]
        if not rest or (incident.capability.holder == self._own and incident.steps_done == 0):
            self._fail(incident, "the capability lapsed", now)
            return
        plan = Plan(self._own, incident.id, rest, case.plan.signature, case.plan.reasoning)
        self.remember_plan(plan)
        self._grant(incident, self._own, plan, now)

    def lost(self, node: bytes, now: Instant) -> None:
        """A member is dead or left: what it held lapses now."""
        for ident in sorted(self._cases):
            incident = self._ledger.incidents.get(ident)
            if incident is not None and incident.capability is not None and incident.capability.holder == node:
                self.lapsed(ident, incident.capability.nonce, now)

    def unheard(self, ident: str, round: int, now: Instant) -> None:
        """Nobody could offer anything acceptable in time."""
        incident = self._ledger.incidents.get(ident)
        if incident is not None and incident.state in ("seeking", "offered") and incident.help and incident.help.round == round:
            self._close(incident, "escalated", "no acceptable plan from anybody", None, now)

    def overdue(self, incident_id: str, now: Instant) -> None:
        """Whatever holds it up (a guard that never answers, a disk that never syncs): it ends."""
        if (incident := self._ledger.incidents.get(incident_id)) is not None:
            self._close(incident, "escalated", f"not healed within {self._settings.incident_ms // 60_000} minutes", None, now)

    def _close(self, incident: Incident, state: str, verdict: str, reading: FileSystem | None, now: Instant) -> None:
        case = self._cases.pop(incident.id, None)
        if case is None:
            return  # said already
        self._verifying.pop(incident.id, None)
        for name in ("limit",), ("decide",), ("verify",), ("seek", case.round), ("lapse", case.nonce):
            self._requests.timers.cancel((name[0], incident.id, *name[1:]))
        self._say_closed(incident, state, verdict, reading, now)

    def _say_closed(self, incident: Incident, state: str, verdict: str, reading: FileSystem | None, now: Instant) -> None:
        offer, capability = incident.offer, incident.capability
        closed = Closed(
            incident=incident.id,
            state=state,
            verdict=verdict,
            fingerprint=incident.fingerprint,
            signature=offer.plan.signature if offer else "",
            planner=offer.planner if offer else "",
            planned_by=incident.planned_by,
            acted_by=capability.holder if capability else b"",
            used=reading.used if reading else 0,
            size=reading.size if reading else incident.size,
            ms_to_heal=max(0, now.wall_ms - incident.opened_ms),
        )
        self._speech.say(closed, now)
