"""A disk whose writes take time and survive a crash only once synced."""

import random
from collections.abc import Callable

from cloudisense.mesh.effects import Delete, Row, Scalar
from cloudisense.sim.clock import Clock

KEYS = {
    "meta": ("key",),
    "entries": ("node", "generation", "number"),
    "members": ("node",),
    "checkpoints": ("node",),
    "forks": ("node",),
    "incidents": ("id",),
    "history": ("incident",),
    "spent": ("nonce", "step"),
}
"""Table -> primary key, as in ``cloudisense.store``."""


class Disk:
    """One host's durable tables."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._tables: dict[str, dict[tuple[Scalar, ...], dict[str, Scalar]]] = {table: {} for table in KEYS}
        self._free_ns = 0
        self._boots = 0

    def write(self, rows: tuple[Row, ...], done: Callable[[], None]) -> None:
        """Write rows together; ``done`` once they are synced, in the order of asking. A crash before that loses them."""
        self._free_ns = max(self._free_ns, self._clock.now_ns) + self._rng.randrange(200_000, 5_000_000)
        boot = self._boots

        def sync() -> None:
            if boot == self._boots:
                self.write_now(rows)
                done()

        self._clock.at(self._free_ns, sync)

    def write_now(self, rows: tuple[Row, ...]) -> None:
        """Write and sync at once."""
        for put in rows:
            fields = put.key if isinstance(put, Delete) else put.row
            key = tuple(fields[column] for column in KEYS[put.table])
            if isinstance(put, Delete):
                self._tables[put.table].pop(key, None)
                continue
            self._tables[put.table].setdefault(key, {}).update(put.row)

    def rows(self, table: str) -> list[dict[str, Scalar]]:
        """All rows of a table, by primary key."""
        return [self._tables[table][key] for key in sorted(self._tables[table], key=repr)]

    def crash(self) -> None:
        """Lose what is not synced."""
        self._boots += 1
        self._free_ns = 0
