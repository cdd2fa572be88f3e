"""The helping side: plan for whoever asks, offer, and drive the steps of a plan that was granted."""

from dataclasses import dataclass

from cloudisense.agent import rules
from cloudisense.agent.entries import Help, Offer, StepReply, StepRequest
from cloudisense.agent.events import PlanFailed, PlanReady
from cloudisense.agent.incident import Incident
from cloudisense.agent.memory import Memory
from cloudisense.agent.plan import Plan, PlanRequest, Ranking
from cloudisense.agent.requests import Requests
from cloudisense.agent.settings import Settings
from cloudisense.agent.speech import Speech
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.mesh.instant import NS_PER_MS, Instant

MODEL_CONFIDENCE = 0.4
"""A model that has not earned more on this host (``llm eval``) ranks below memory and rules."""

REASONING_CHARS = 500
OFFER_BYTES = 7900
"""An entry holds 8 KiB with its signature; what others asked for must not make us say more."""
MAX_THINKING = 4
"""Questions to our model at a time; whoever asks more often than it thinks waits for other helpers."""
MAX_DRIVE_MS = 900_000


@dataclass(slots=True)
class Drive:
    """A granted plan that we hold the capability for."""

    incident: Incident
    plan: Plan
    capability: Capability
    index: int
    until_ns: int


class Helper:
    """Plans, offers and drives, for this node."""

    def __init__(self, own: bytes, speech: Speech, requests: Requests, memory: Memory, settings: Settings) -> None:
        self._own = own
        self._speech = speech
        self._requests = requests
        self._memory = memory
        self._settings = settings
        self._plans: dict[bytes, Plan] = {}
        self._thinking = 0
        self._drives: dict[bytes, Drive] = {}

    def asked(self, incident: Incident, help: Help, now: Instant) -> None:
        """Somebody needs a plan: ask our planners in their order, the model last."""
        planners = self._settings.planners
        answer = None
        if "memory" in planners:
            answer = self._memory.rank(incident.fingerprint, help.candidates, now.wall_ms)
        if answer is None and "rules" in planners:
            answer = rules.rank(incident.kind, help.candidates)
        if answer is not None:
            self._offer(incident, help, answer[0], answer[1], now)
        elif "llm" in planners and self._settings.model and help.candidates:
            if self._thinking >= MAX_THINKING:
                self._requests.notify("no plan", incident.id, "model: busy with other incidents")
                return
            self._thinking += 1
            request = PlanRequest(incident.id, incident.kind, incident.symptom, help.goal_bytes, help.goal_inodes, help.candidates)
            self._requests.notify("thinking", incident.id, f"asks its model to rank {len(help.candidates)} candidates")
            self._requests.plan(request, lambda ready, later: self._thought(incident, help, ready, later))

    def _thought(self, incident: Incident, help: Help, ready: PlanReady | PlanFailed, now: Instant) -> None:
        self._thinking -= 1
        if isinstance(ready, PlanFailed):
            self._requests.notify("no plan", incident.id, f"model: {ready.reason}")
        elif not ready.ranking.order or not 0 <= ready.ranking.order[0] < len(help.candidates):
            self._requests.notify("no plan", incident.id, "model: it chose nothing that was asked about")
        elif incident.help is help and incident.state in ("seeking", "offered"):
            self._offer(incident, help, ready.ranking, MODEL_CONFIDENCE, now)

    def _offer(self, incident: Incident, help: Help, ranking: Ranking, confidence: float, now: Instant) -> None:
        candidate = help.candidates[ranking.order[0]]
        plan = Plan(incident.subject, incident.id, candidate.steps, candidate.signature, ranking.reasoning[:REASONING_CHARS])
        offer = Offer(incident.id, help.round, plan, ranking.planner, ranking.model, confidence, ranking.load_ms, ranking.think_ms)
        if len(pack(offer)) > OFFER_BYTES:
            self._requests.notify("no plan", incident.id, "the plan is too long for an offer")
            return
        self.remember(plan)
        self._speech.say(offer, now)
        self._requests.after(("ungranted", incident.id, help.round), now, self._settings.ungranted_ms)

    def remember(self, plan: Plan) -> None:
        """Keep a plan until it is granted, or others push it out."""
        if plan.hash not in self._plans and len(self._plans) >= self._settings.incidents:
            del self._plans[next(iter(self._plans))]
        self._plans[plan.hash] = plan

    def granted(self, incident: Incident, capability: Capability, now: Instant) -> None:
        """A capability for us: begin with the first step. One at a time for an incident, and at the host that asked."""
        plan = self._plans.get(capability.plan_hash)
        if capability.holder != self._own or plan is None or capability.gate != incident.subject or incident.capability != capability:
            return
        if not self._speech.may_help(capability.gate):
            return
        for nonce in [n for n, drive in self._drives.items() if drive.incident is incident]:
            self._drop(nonce)
        until_ns = now.boot_ns + min(capability.lapse_ms, MAX_DRIVE_MS) * NS_PER_MS
        self._drives[capability.nonce] = Drive(incident, plan, capability, 0, until_ns)
        self._ask(capability.nonce, now)

    def _ask(self, nonce: bytes, now: Instant) -> None:
        """Ask the gate for the next step, and again until it answers or the capability has lapsed."""
        drive = self._drives.get(nonce)
        if drive is None:
            return
        incident = drive.incident
        if now.boot_ns > drive.until_ns or incident.ended or incident.capability != drive.capability:
            self._drop(nonce)
            return
        # The timer first: our own gate may answer before the call returns.
        self._requests.after(("step", nonce), now, self._settings.step_retry_ms)
        self._speech.send(drive.capability.gate, StepRequest(incident.id, nonce, drive.index, pack(drive.plan)), now)

    def _drop(self, nonce: bytes) -> None:
        del self._drives[nonce]
        self._requests.timers.cancel(("step", nonce))

    def retry(self, nonce: bytes, now: Instant) -> None:
        """No answer yet."""
        self._ask(nonce, now)

    def replied(self, peer: bytes, reply: StepReply, now: Instant) -> None:
        """The gate says how a step ended."""
        drive = self._drives.get(reply.nonce)
        if drive is None or peer != drive.capability.gate or reply.index != drive.index:
            return
        drive.index += 1
        if reply.verdict != "done" or drive.index == len(drive.plan.steps):
            self._drop(reply.nonce)
        else:
            self._ask(reply.nonce, now)
