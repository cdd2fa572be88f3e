"""The words under a plan: measured facts, made by code, and what the model adds, marked as the model's."""

from cloudisense.agent.plan import Candidate, PlanRequest
from cloudisense.llm.grammar import BECAUSE_CHARS_MAX
from cloudisense.llm.prompt import clean

REASONING_CHARS_MAX = 600
DETAIL_CHARS_MAX = 200

_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3))


def size_text(count: int) -> str:
    """Bytes for people, decimal units: ``45.1 MB``."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def facts(request: PlanRequest, candidate: Candidate) -> str:
    """What was measured of ``candidate`` and what is needed: ``frees 45.1 MB (212 files older than 1 day); needed 9.8 MB``."""
    measured = candidate.measured
    gains: list[str] = []
    needs: list[str] = []
    if measured.frees_bytes or request.goal_bytes:
        gains.append(size_text(measured.frees_bytes))
    if request.goal_bytes:
        needs.append(size_text(request.goal_bytes))
    if request.goal_inodes:
        gains.append(f"{measured.frees_inodes:,} inodes")
        needs.append(f"{request.goal_inodes:,} inodes")
    detail = clean(measured.detail, DETAIL_CHARS_MAX)
    if not gains:
        return detail or clean(candidate.title, DETAIL_CHARS_MAX)
    return f"frees {' and '.join(gains)}" + (f" ({detail})" if detail else "") + (f"; needed {' and '.join(needs)}" if needs else "")


def reasoning(request: PlanRequest, candidate: Candidate, because: str) -> str:
    """Facts, then the model's sentence in quotes. ``because`` may be empty: then only the facts."""
    said = clean(because, BECAUSE_CHARS_MAX).replace('"', "'")
    return (facts(request, candidate) + (f'. Model: "{said}"' if said else "."))[:REASONING_CHARS_MAX]


def shortened(text: str) -> str:
    """An unfinished sentence cut at its last whole word, with an ellipsis; empty when there is no whole word."""
    head = text[: BECAUSE_CHARS_MAX - 3].rpartition(" ")[0].rstrip(" ,'-")
    return f"{head}..." if head else ""
