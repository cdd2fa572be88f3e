"""The replay window: which counters of one sender have been accepted (the sliding window of RFC 4303, section 3.4.3)."""

WIDTH = 2048
_FULL = (1 << WIDTH) - 1


class ReplayWindow:
    """Remembers the last ``WIDTH`` counters below the highest accepted one; all that is older counts as seen."""

    __slots__ = ("_highest", "_seen")

    def __init__(self, highest: int = -1) -> None:
        """``highest``: everything up to and including it counts as seen."""
        self._highest = highest
        self._seen = _FULL  # bit i: counter (highest - i)

    @property
    def highest(self) -> int:
        """The highest counter accepted, or -1."""
        return self._highest

    def is_fresh(self, counter: int) -> bool:
        """Whether ``counter`` may be accepted. Changes nothing: ask before decrypting."""
        age = self._highest - counter
        return age < 0 or (age < WIDTH and not self._seen >> age & 1)

    def accept(self, counter: int) -> None:
        """Mark ``counter``, which was fresh, as seen. Only for an authentic datagram."""
        ahead = counter - self._highest
        if ahead <= 0:
            self._seen |= 1 << -ahead
            return
        # The shift is bounded by our width: a peer's number could be 2**64 - 1.
        self._seen = (self._seen << ahead | 1) & _FULL if ahead < WIDTH else 1
        self._highest = counter
