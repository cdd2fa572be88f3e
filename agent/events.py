"""What the host reports to the agent."""

from dataclasses import dataclass

from cloudisense.agent.plan import Measured, Ranking


@dataclass(frozen=True, slots=True)
class FileSystem:
    """One reading of a file system; sizes in bytes, as ``statvfs`` counts for an ordinary user."""

    size: int
    used: int
    inodes: int
    inodes_used: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """Answer to ``Sample``; ``reading`` is ``None`` and ``error`` says why when it could not be read."""

    token: int
    reading: FileSystem | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Estimated:
    """Answer to ``Estimate``: one measurement per step, in the order asked."""

    token: int
    measured: tuple[Measured, ...]


@dataclass(frozen=True, slots=True)
class PlanReady:
    """Answer to ``RequestPlan``: the model's ranking and its words."""

    token: int
    ranking: Ranking


@dataclass(frozen=True, slots=True)
class PlanFailed:
    """The model could not answer (died, ran out of time or memory, is damaged); costs this one plan."""

    token: int
    reason: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """Answer to ``RunStep``. ``verdict`` is ``"done"``, ``"failed"`` or ``"refused"``; ``detail`` says why.

    ``freed_bytes`` and ``files`` are what the executor counted: a claim, not the verification.
    """

    token: int
    verdict: str
    detail: str
    freed_bytes: int = 0
    files: int = 0
