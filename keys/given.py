"""What the outside world gives to the cores as arguments: randomness and time, as the least that ``keys`` needs of them."""

from typing import Protocol


class Rng(Protocol):
    """A source of randomness: ``random.SystemRandom()`` in the daemon, a seeded one in a simulation."""

    def randbytes(self, n: int, /) -> bytes:
        """``n`` bytes."""
        ...

    def random(self) -> float:
        """A float in [0, 1)."""
        ...

    def randrange(self, n: int, /) -> int:
        """An integer in [0, n)."""
        ...


class Now(Protocol):
    """A clock reading; ``mesh.instant.Instant`` is one."""

    @property
    def boot_ns(self) -> int:
        """Nanoseconds of boot time: monotonic within one boot, runs through suspend."""
        ...
