"""What the agent asks of its host. Each request carries a token that its answering event repeats."""

from dataclasses import dataclass

from cloudisense.agent.plan import Candidate, PlanRequest, Step


@dataclass(frozen=True, slots=True)
class Sample:
    """Read the file system that holds ``path`` once; answered by ``Sampled``."""

    token: int
    path: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """Measure, without changing anything, what each step would free; answered by ``Estimated``."""

    token: int
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """Ask this host's model to rank candidates; answered by ``PlanReady`` or ``PlanFailed``."""

    token: int
    request: PlanRequest


@dataclass(frozen=True, slots=True)
class RunStep:
    """Ask this host's guard to admit and run one step; answered by ``StepDone``.

    ``capability`` is the signed feed entry, byte for byte; the guard believes nothing else.
    ``plan`` is the packed plan, whose hash the capability names. ``requester`` is the
    authenticated node that asks.
    """

    token: int
    requester: bytes
    capability: bytes
    plan: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the operator (log, screen, hook) something that happened, in words.

    ``topic`` is a stable word (``alert``, ``offer``, ``granted`` ...); ``facts`` are for machines.
    """

    topic: str
    incident: str
    text: str
    facts: tuple[tuple[str, str | int], ...] = ()


__all__ = ["Candidate", "Estimate", "Notify", "RequestPlan", "RunStep", "Sample"]
