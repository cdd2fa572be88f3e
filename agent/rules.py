"""Fixes that are right whenever they are possible: what an operator would do without thinking.

Deliberately few. How old a temporary file must be before nobody needs it is a judgement, so no rule ships for it: that is
for the fix history, or the model, among the candidates that reach the goal.
"""

from cloudisense.agent.plan import Candidate, Ranking

CONFIDENCE = 0.6

FIXES: dict[str, tuple[tuple[str, str], ...]] = {
    "disk_full": (("clean_cache", "a cache can be built again"),),
    "inodes_full": (("clean_cache", "a cache can be built again"),),
}
"""Kind of incident -> (action, why it is always right), in order of preference."""


def rank(kind: str, candidates: tuple[Candidate, ...]) -> tuple[Ranking, float] | None:
    """The first candidate whose only action a rule covers, or nothing to say."""
    for action, why in FIXES.get(kind, ()):
        for i, candidate in enumerate(candidates):
            if {step.action for step in candidate.steps} == {action}:
                return Ranking((i,), f"{candidate.measured.detail}; rule: {why}", "rules"), CONFIDENCE
    return None
