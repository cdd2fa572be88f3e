"""What the operator may set, and every period and bound of the agent. Units are the last word of each name."""

from dataclasses import dataclass, field


def default_mode() -> dict[str, str]:
    """A fresh install acts on reversible things and observes the rest."""
    return {"observe": "act", "reversible": "act", "disruptive": "observe", "destructive": "observe"}


@dataclass(frozen=True, slots=True)
class Settings:
    """``planners`` in order of asking; ``model`` says whether this host has one."""

    mode: dict[str, str] = field(default_factory=default_mode)
    planners: tuple[str, ...] = ("memory", "rules", "llm")
    model: bool = False
    sample_ms: int = 1000
    near_sample_ms: int = 200
    """Near a threshold, and while an incident is open."""
    decide_ms: int = 200
    """From the first offer to the choice, unless the subject's own memory or rules know."""
    seek_ms: int = 90_000
    """Without any acceptable offer for this long, escalate."""
    ungranted_ms: int = 15_000
    """A peer whose offer is neither taken nor refused for this long escalates; nobody grants in the subject's place."""
    lapse_ms: int = 5_000
    lapse_per_step_ms: int = 2_000
    step_retry_ms: int = 250
    verify_samples: int = 3
    verify_gap_ms: int = 100
    rounds: int = 3
    incident_ms: int = 840_000
    """Whatever holds an incident up, it is escalated after this long: a human knows within 15 minutes (H5)."""
    recurrences: int = 3
    recurrence_ms: int = 600_000
    incidents: int = 1000
    """Kept in memory; ended ones go first."""
