"""The fix history as a judge: how often did this kind of fix heal this kind of trouble, here and in the whole mesh?

A Beta posterior per (fingerprint, signature) from a uniform prior, with exponential forgetting. What this host was not part of
counts half (DESIGN section 3.3, memory).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cloudisense.agent.plan import Candidate, Ranking
from cloudisense.mesh.effects import Scalar

HALF_LIFE_MS = 90 * 86_400_000
OTHERS_WEIGHT = 0.5
TRUSTED_MEAN = 0.58
"""One healing on this host (mean 0.67), or two elsewhere (0.67), is enough to propose it again; one elsewhere gives 0.6."""
MAX_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class Lesson:
    """One healing as the fix history on disk keeps it, for when its entries are pruned. ``own``: this host was part of it."""

    incident: str
    fingerprint: str
    signature: str
    own: bool
    at_ms: int


def lessons(rows: Iterable[Mapping[str, Scalar]], own: str) -> tuple[Lesson, ...]:
    """What the rows of the fix history teach; ``own`` is this node's id in text."""
    healed = [row for row in rows if row["outcome"] == "resolved"]
    return tuple(
        Lesson(
            str(row["incident"]),
            str(row["fingerprint"]),
            str(row["signature"]),
            own in (row["node"], row["planned_by"], row["acted_by"]),
            int(row["at"] or 0),
        )
        for row in healed[-MAX_RECORDS:]
    )


@dataclass(slots=True)
class Record:
    """Weighted outcomes, as of ``at_ms``."""

    healed: float = 0.0
    failed: float = 0.0
    at_ms: int = 0

    @property
    def mean(self) -> float:
        """The posterior mean that this fix heals."""
        return (1 + self.healed) / (2 + self.healed + self.failed)


class Memory:
    """What worked, by fingerprint of the trouble and signature of the fix."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], Record] = {}

    def learn(self, fingerprint: str, signature: str, healed: bool, own: bool, at_ms: int) -> None:
        """One verified outcome; in whatever order they come in, the sum is the same."""
        if (fingerprint, signature) not in self._records and len(self._records) >= MAX_RECORDS:
            self._records.pop(min(self._records, key=lambda key: (self._records[key].at_ms, key)))
        record = self._records.setdefault((fingerprint, signature), Record())
        newest = max(record.at_ms, at_ms)
        fade = _fade(newest - record.at_ms)
        weight = (1.0 if own else OTHERS_WEIGHT) * _fade(newest - at_ms)
        record.healed = record.healed * fade + (weight if healed else 0.0)
        record.failed = record.failed * fade + (0.0 if healed else weight)
        record.at_ms = newest

    def record(self, fingerprint: str, signature: str, now_ms: int) -> Record:
        """What is known of one fix for one trouble, as it weighs now; empty when nothing is."""
        record = self._records.get((fingerprint, signature), Record())
        fade = _fade(now_ms - record.at_ms)
        return Record(record.healed * fade, record.failed * fade, now_ms)

    def rank(self, fingerprint: str, candidates: tuple[Candidate, ...], now_ms: int) -> tuple[Ranking, float] | None:
        """Candidates that have healed this trouble before, best first, and the confidence in the first; or nothing to say."""
        known = [(self.record(fingerprint, c.signature, now_ms), i) for i, c in enumerate(candidates)]
        trusted = sorted((-r.mean, i) for r, i in known if r.healed > 0 and r.mean >= TRUSTED_MEAN)
        if not trusted:
            return None
        confidence, best = -trusted[0][0], trusted[0][1]
        record = known[best][0]
        words = f"{candidates[best].measured.detail}; healed this before (weight {record.healed:.1f} healed, {record.failed:.1f} failed)"
        return Ranking(tuple(i for _, i in trusted), words, "memory"), confidence


def _fade(age_ms: int) -> float:
    return 0.5 ** (max(0, age_ms) / HALF_LIFE_MS)
