"""A disk that forgets what was not synced."""

import random
from typing import Any

from cloudisense.mesh.effects import Put
from cloudisense.sim.clock import Clock
from cloudisense.sim.disk import Disk


def make() -> tuple[Clock, Disk, list[Any]]:
    clock = Clock()
    return clock, Disk(clock, random.Random(1)), []


def put(i: int, **more) -> Put:
    return Put("spent", {"nonce": b"n", "step": i, **more})


def test_done_means_synced_in_the_order_of_asking() -> None:
    clock, disk, done = make()
    for i in range(5):
        disk.write((put(i),), lambda i=i: done.append((i, len(disk.rows("spent")), clock.now_ns)))
    assert disk.rows("spent") == []
    clock.run(10**9, lambda: False)
    assert [(i, rows) for i, rows, _ in done] == [(i, i + 1) for i in range(5)]
    assert [at for _, _, at in done] == sorted({at for _, _, at in done}), "each takes its time"


def test_a_crash_loses_what_was_not_synced_and_its_answer() -> None:
    clock, disk, done = make()
    for i in range(5):
        disk.write((put(i),), lambda i=i: done.append(i))
    clock.run(10**9, lambda: len(done) == 2)
    disk.crash()
    disk.write((put(9),), lambda: done.append(9))
    clock.run(10**9, lambda: False)
    assert done == [0, 1, 9]
    assert [row["step"] for row in disk.rows("spent")] == [0, 1, 9]


def test_rows_are_upserted_by_key() -> None:
    _, disk, _ = make()
    disk.write_now((put(1, at_ms=1), put(1, at_ms=2), put(2, at_ms=3)))
    assert [(row["step"], row["at_ms"]) for row in disk.rows("spent")] == [(1, 2), (2, 3)]
