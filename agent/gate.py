"""The gate: the only door to an action, at the host where it happens.

It believes nothing but the signed capability and the plan whose hash that names. Nonce and step are spent durably before the
step runs, so that no step runs twice over any crash (invariants H1 and H2). The gate decides; its host's guard carries out.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.effects import RunStep
from cloudisense.agent.plan import Plan, Step
from cloudisense.keys.capability import Capability, check_capability
from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.mesh.effects import Put
from cloudisense.mesh.feed import parse_entry
from cloudisense.mesh.instant import NS_PER_MS, Instant

PLAN_BYTES = 8192
CAPABILITY_ENTRY_BYTES = 1024

LAPSED = "the capability has lapsed"


@dataclass(frozen=True, slots=True)
class Admitted:
    """Run ``step``, but only after ``spent`` is durable."""

    step: Step
    spent: Put


class Gate:
    """Decides whether one step may run here, now."""

    def __init__(
        self, host: bytes, mesh_id: bytes, boot: bytes, catalogue: Catalogue, mode: dict[str, str], spent: Iterable[tuple[bytes, int]]
    ) -> None:
        self._host = host
        self._mesh_id = mesh_id
        self._boot = boot
        self._catalogue = catalogue
        self._mode = mode
        self._spent = set(spent)
        self.paused = False

    def admit(self, request: RunStep, now: Instant) -> Admitted | Refused:
        """Check everything, then spend (nonce, step). A refusal says why and changes nothing."""
        try:
            capability = self._capability(request)
            plan = unpack(request.plan, Plan, PLAN_BYTES)
        except RemoteProtocolError as error:
            return Refused(error.reason)
        refusal = self._refusal(capability, plan, request, now)
        if refusal is not None:
            return Refused(refusal)
        step = plan.steps[request.index]
        action = self._catalogue.check(step)
        if isinstance(action, Refused):
            return action
        if self._mode.get(action.risk, "observe") != "act":
            return Refused(f"mode: {action.risk} actions are not allowed to run here")
        self._spent.add((capability.nonce, request.index))
        return Admitted(step, Put("spent", {"nonce": capability.nonce, "step": request.index, "at_ms": now.wall_ms}))

    def _capability(self, request: RunStep) -> Capability:
        entry, _ = parse_entry(request.capability, self._mesh_id, CAPABILITY_ENTRY_BYTES)
        if entry.kind != "capability" or entry.node != self._host:
            raise RemoteProtocolError("not a capability of this host")
        return check_capability(entry.body)

    def _refusal(self, capability: Capability, plan: Plan, request: RunStep, now: Instant) -> str | None:
        """The first thing that is wrong; a table, so that the order is plain."""
        index = request.index
        granted_ns = capability.granted_ms * NS_PER_MS
        checks = (
            (not self.paused, "this host is paused"),
            (capability.gate == self._host and plan.gate == self._host, "the capability is for another gate"),
            (capability.boot == self._boot, "the capability is from before the guard's restart"),
            (capability.holder == request.requester, "the capability belongs to another node"),
            (granted_ns <= now.boot_ns <= granted_ns + capability.lapse_ms * NS_PER_MS, LAPSED),
            (capability.plan_hash == plan.hash, "the plan is not the one that was authorised"),
            (capability.incident == plan.incident, "the capability is for another incident"),
            (len(plan.steps) == capability.steps and 0 <= index < capability.steps, "no such step"),
            ((capability.nonce, index) not in self._spent, "this step has been used"),
            (all((capability.nonce, i) in self._spent for i in range(index)), "an earlier step has not run"),
        )
        return next((reason for holds, reason in checks if not holds), None)
