"""From the catalogue to what can be proposed: steps that were measured, and reach the goal."""

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.plan import Candidate, Measured, Step

MAX_CANDIDATES = 12
MAX_STEPS = 6
RISKS = ("observe", "reversible", "disruptive", "destructive")


def candidates_for(
    catalogue: Catalogue, measured: tuple[tuple[Step, Measured], ...], goal_bytes: int, goal_inodes: int, excluded: frozenset[str]
) -> tuple[Candidate, ...]:
    """Single steps that reach the goal; where none does, one sequence on distinct values that together does.

    What cannot reach the goal by measurement is dropped here, before anybody ranks it, and so is what already failed.
    """
    useful = [(step, m) for step, m in measured if m.frees_bytes > 0 or m.frees_inodes > 0]
    reaching = [_candidate(catalogue, ((step, m),)) for step, m in useful if _reaches((m,), goal_bytes, goal_inodes)]
    found = [c for c in reaching if c.signature not in excluded]
    # What failed by itself would add nothing to others, either.
    useful = [(step, m) for step, m in useful if catalogue.signature(step) not in excluded]
    if not found and (together := _together(useful, goal_bytes, goal_inodes)):
        found = [c for c in (_candidate(catalogue, together),) if c.signature not in excluded]
    # The mildest first: by risk, then by how little it touches.
    found.sort(key=lambda c: (RISKS.index(c.risk), c.measured.frees_bytes, c.signature))
    return tuple(found[:MAX_CANDIDATES])


def _reaches(measured: tuple[Measured, ...], goal_bytes: int, goal_inodes: int) -> bool:
    return sum(m.frees_bytes for m in measured) >= goal_bytes and sum(m.frees_inodes for m in measured) >= goal_inodes


def _together(useful: list[tuple[Step, Measured]], goal_bytes: int, goal_inodes: int) -> tuple[tuple[Step, Measured], ...]:
    """Largest first, at most one step per declared path, so that no file is counted twice."""
    chosen: list[tuple[Step, Measured]] = []
    for step, m in sorted(useful, key=lambda item: (-item[1].frees_bytes - item[1].frees_inodes, item[0].action, item[0].values)):
        if len(chosen) < MAX_STEPS and all(step.value("path") != other.value("path") for other, _ in chosen):
            chosen.append((step, m))
        if _reaches(tuple(m for _, m in chosen), goal_bytes, goal_inodes):
            return tuple(chosen)
    return ()


def _candidate(catalogue: Catalogue, parts: tuple[tuple[Step, Measured], ...]) -> Candidate:
    steps = tuple(step for step, _ in parts)
    total = Measured(
        sum(m.frees_bytes for _, m in parts),
        sum(m.frees_inodes for _, m in parts),
        sum(m.files for _, m in parts),
        ", then ".join(m.detail for _, m in parts),
    )
    risk = max((catalogue.actions[step.action].risk for step in steps), key=RISKS.index)
    signature = " + ".join(catalogue.signature(step) for step in steps)
    return Candidate(signature, ", then ".join(catalogue.title(step) for step in steps), steps, total, risk)
