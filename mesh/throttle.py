"""Token buckets per member: how much of our time one authenticated peer may have (DESIGN section 2, errors: "throttle the peer").

Who is a member can still be a thief's, or ill. What it can make us do is bounded here; what comes from outside is bounded
before it is authenticated, in ``hello``.
"""

from dataclasses import dataclass

from cloudisense.mesh.instant import NS_PER_S, Instant


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_ns: int


class Throttle:
    """``burst`` tokens for each of at most ``peers`` peers, ``rate_s`` more a second. Debt is possible, and bounded by the burst."""

    def __init__(self, rate_s: float, burst: float, peers: int) -> None:
        self._rate_s, self._burst, self._peers = rate_s, burst, peers
        self._buckets: dict[bytes, _Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def has(self, peer: bytes, now: Instant) -> bool:
        """Is a token left for ``peer``?"""
        bucket = self._buckets.get(peer)
        return bucket is None or self._filled(bucket, now) >= 1

    def charge(self, peer: bytes, cost: float, now: Instant) -> None:
        """``peer`` has cost us this much, whether it had it or not."""
        bucket = self._buckets.get(peer)
        if bucket is None:
            if len(self._buckets) >= self._peers:
                # The fullest is the one that is least worth remembering.
                del self._buckets[max(self._buckets, key=lambda node: (self._filled(self._buckets[node], now), node))]
            bucket = self._buckets[peer] = _Bucket(self._burst, now.boot_ns)
        bucket.tokens = max(-self._burst, self._filled(bucket, now) - cost)
        bucket.filled_ns = now.boot_ns

    def take(self, peer: bytes, now: Instant) -> bool:
        """Take a token, if there is one."""
        allowed = self.has(peer, now)
        if allowed:
            self.charge(peer, 1, now)
        return allowed

    def _filled(self, bucket: _Bucket, now: Instant) -> float:
        return min(self._burst, bucket.tokens + (now.boot_ns - bucket.filled_ns) * self._rate_s / NS_PER_S)
