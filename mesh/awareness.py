"""How well we ourselves do: Lifeguard's local health multiplier (section IV-A), so that a sick node does not accuse the healthy."""

from dataclasses import dataclass


@dataclass(slots=True)
class Awareness:
    """A score from 0 (well) to ``limit``; probe time-outs are multiplied by one more than it."""

    limit: int
    score: int = 0

    def worse(self, by: int = 1) -> None:
        """A probe failed without any relay's nack, a send failed here, or we were frozen."""
        self.score = min(self.limit, self.score + by)

    def better(self) -> None:
        """A probe was answered in time."""
        self.score = max(0, self.score - 1)

    def scale(self, wait_ms: int) -> int:
        """A time-out, stretched by how ill we are."""
        return wait_ms * (self.score + 1)
