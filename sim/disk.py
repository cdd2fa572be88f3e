"""A disk whose writes take time and survive a crash only once synced. It may be slow, full, or lie about what it held."""

import random
from collections import deque
from collections.abc import Callable

from cloudisense.mesh.effects import Delete, Row, Scalar
from cloudisense.mesh.instant import NS_PER_S
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
BEHIND_NS = 1_000_000
RETRY_NS = NS_PER_S
"""After a failed write, as ``cloudisense.writer``."""


class Disk:
    """One host's durable tables."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._rng = rng
        self._tables: dict[str, dict[tuple[Scalar, ...], dict[str, Scalar]]] = {table: {} for table in KEYS}
        self._free_ns = 0
        self._boots = 0
        self._waiting: deque[list[Row]] = deque()
        self.slower = 1
        """How many times longer a sync takes."""
        self.full = False
        """No write succeeds; each is tried again, in order."""
        self.point: Callable[[str], None] = lambda what: None
        """Told just before and just after each sync: the host may die there."""

    def write(self, rows: tuple[Row, ...], done: Callable[[], None]) -> None:
        """Write rows together; ``done`` once they are synced, in the order of asking. A crash before that may lose them."""
        self._free_ns = max(self._free_ns, self._clock.now_ns) + self.slower * self._rng.randrange(200_000, 5_000_000)
        item = [*rows]
        self._waiting.append(item)
        boot = self._boots

        def sync() -> None:
            if boot != self._boots:
                return
            if self.full or self._waiting[0] is not item:
                # Order is kept: what comes after a failed write waits for it.
                self._clock.after(RETRY_NS if self.full else BEHIND_NS, sync)
                return
            self.point("before sync")
            if boot != self._boots:
                return
            self.write_now(tuple(self._waiting.popleft()))
            self.point("after sync")
            if boot == self._boots:
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

    def row(self, table: str, *key: Scalar) -> dict[str, Scalar] | None:
        """One row, or ``None``."""
        return self._tables[table].get(key)

    def crash(self, survive: Callable[[int], int] = lambda waiting: 0) -> None:
        """Lose what is not synced, but for the ``survive(n)`` oldest of ``n`` writes under way: they were on the platter, unreported."""
        for _ in range(survive(len(self._waiting))):
            self.write_now(tuple(self._waiting.popleft()))
        self._waiting.clear()
        self._boots += 1
        self._free_ns = 0

    def rot(self, table: str, column: str, rng: random.Random, but: bytes = b"") -> bool:
        """Change one bit of one value, not in a row of the node ``but``; false where there is none."""
        rows = [row for row in self.rows(table) if isinstance(row[column], bytes) and row[column] and row["node"] != but]
        if not rows:
            return False
        row = rng.choice(rows)
        data = bytearray(bytes(row[column]))  # pyright: ignore[reportArgumentType]
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        row[column] = bytes(data)
        return True
