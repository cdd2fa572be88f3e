"""A network with delay, loss, duplication, reordering and partitions, all drawn from one seed."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cloudisense.mesh.effects import Address
from cloudisense.sim.clock import Clock


@dataclass(slots=True)
class Weather:
    """Chances per datagram, and delay bounds in nanoseconds. Reordering follows from the spread of delays."""

    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    """One bit is another one on arrival."""
    delay_min_ns: int = 100_000
    delay_max_ns: int = 2_000_000


class Network:
    """Carries datagrams and bulk messages between addresses."""

    def __init__(self, clock: Clock, rng: random.Random, weather: Weather) -> None:
        self.weather = weather
        self.datagrams = 0
        self.bytes = 0
        self._clock = clock
        self._rng = rng
        self._cut: set[tuple[Address, Address]] = set()

    def partition(self, a: Address, b: Address, one_way: bool = False) -> None:
        """Nothing passes from ``a`` to ``b`` any more, nor back unless ``one_way``."""
        self._cut.add((a, b))
        if not one_way:
            self._cut.add((b, a))

    def mend(self, cuts: Iterable[tuple[Address, Address]]) -> None:
        """End these, one way each."""
        self._cut.difference_update(cuts)

    def heal(self) -> None:
        """End all partitions."""
        self._cut.clear()

    def datagram(self, source: Address, target: Address, size: int, deliver: Callable[[], None]) -> None:
        """Carry one datagram, or not, or twice."""
        self.datagrams += 1
        self.bytes += size + 28
        if self._rng.random() < self.weather.loss:
            return
        copies = 2 if self._rng.random() < self.weather.duplicate else 1
        for _ in range(copies):
            self._carry(source, target, deliver)

    def bulk(self, source: Address, target: Address, size: int, deliver: Callable[[], None]) -> None:
        """Carry one message over a stream: no loss but by partition."""
        self.bytes += size
        self._carry(source, target, deliver)

    def _carry(self, source: Address, target: Address, deliver: Callable[[], None]) -> None:
        delay_ns = self._rng.randrange(self.weather.delay_min_ns, self.weather.delay_max_ns)
        # A partition that begins while a datagram is under way swallows it.
        self._clock.after(delay_ns, lambda: None if (source, target) in self._cut else deliver())
