"""Deadlines by name: the core's whole notion of "later"."""

import heapq
from collections.abc import Hashable


class Timers:
    """A set of named deadlines in boot-time nanoseconds, popped in order of deadline, then of setting.

    Setting a name again moves it. Nothing here reads a clock.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Hashable]] = []
        self._live: dict[Hashable, tuple[int, int]] = {}
        self._sequence = 0

    def set(self, name: Hashable, at_ns: int) -> None:
        """Fire ``name`` at ``at_ns``, and no longer at the time set before."""
        self._sequence += 1
        self._live[name] = (at_ns, self._sequence)
        heapq.heappush(self._heap, (at_ns, self._sequence, name))
        if len(self._heap) > 2 * len(self._live) + 64:
            # A name that is moved again and again leaves a stale item each time.
            self._heap = [(at, sequence, name) for name, (at, sequence) in self._live.items()]
            heapq.heapify(self._heap)

    def cancel(self, name: Hashable) -> None:
        """Forget ``name``; unknown names are fine."""
        self._live.pop(name, None)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._live

    def next(self) -> int | None:
        """The earliest deadline, or ``None``."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now_ns: int) -> Hashable | None:
        """Remove and return the earliest name whose deadline has come, or ``None``."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now_ns:
            return None
        name = heapq.heappop(self._heap)[2]
        del self._live[name]
        return name

    def _drop_stale(self) -> None:
        while self._heap and self._live.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)
