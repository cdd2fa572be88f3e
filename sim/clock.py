"""Virtual time: one queue of things to do, in true time; nothing waits for real."""

import heapq
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from cloudisense.mesh.instant import NS_PER_S, Instant

EPOCH_WALL_NS = 1_767_225_600 * NS_PER_S
"""2026-01-01: when every simulated world begins."""


class Clock:
    """True time in nanoseconds since the world began. Ties run in the order in which they were planned."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        self.within: Callable[[], AbstractContextManager[None]] = nullcontext
        """Around everything that ``run`` does."""
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0

    def at(self, at_ns: int, do: Callable[[], None]) -> None:
        """Do something at a true time, or at once when that has passed."""
        self._sequence += 1
        heapq.heappush(self._queue, (max(at_ns, self.now_ns), self._sequence, do))

    def after(self, wait_ns: int, do: Callable[[], None]) -> None:
        """Do something in a while."""
        self.at(self.now_ns + wait_ns, do)

    def instant(self) -> Instant:
        """What a host with a perfect clock, booted when the world began, reads now."""
        return Instant(self.now_ns, EPOCH_WALL_NS + self.now_ns)

    def run(self, until_ns: int, stop: Callable[[], bool]) -> bool:
        """Let time pass until ``stop`` says so (True) or ``until_ns`` has come (False)."""
        queue = self._queue
        with self.within():
            while queue and queue[0][0] <= until_ns:
                if stop():
                    return True
                self.now_ns, _, do = heapq.heappop(queue)
                self.events += 1
                do()
        self.now_ns = max(self.now_ns, until_ns) if not stop() else self.now_ns
        return stop()
