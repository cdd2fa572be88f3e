"""The same key alive in two places: a disk was copied, and both copies run.

A node whose disk was set back hears of claims that it forgot, once each, and claims above them. A copy that lives claims above
ours in turn, again and again.
"""

from cloudisense.mesh.instant import NS_PER_MS, Instant

CLAIMS = 3
APART_MS = 5_000
"""So many foreign claims of our own name, over so long, are no memory of an earlier life."""
FORGET_MS = 600_000


class Doubles:
    """Claims in our name, under a session key that this boot never had, above our own."""

    def __init__(self) -> None:
        self._heard_ns: list[int] = []

    def heard(self, now: Instant) -> bool:
        """One more; true once they prove a living copy."""
        since_ns = now.boot_ns - FORGET_MS * NS_PER_MS
        self._heard_ns = [*(at for at in self._heard_ns[-16:] if at >= since_ns), now.boot_ns]
        return len(self._heard_ns) >= CLAIMS and now.boot_ns - self._heard_ns[0] >= APART_MS * NS_PER_MS
