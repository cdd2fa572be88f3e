"""A network with weather."""

import random

import pytest

from cloudisense.sim.clock import Clock
from cloudisense.sim.network import Network, Weather

A, B = ("10.0.0.1", 1), ("10.0.0.2", 1)


def carry(weather: Weather, count: int = 400, bulk: bool = False, cut=None) -> list[tuple[int, int]]:
    """(number, nanosecond) of each that arrived."""
    clock, got = Clock(), []
    network = Network(clock, random.Random(1), weather)
    if cut is not None:
        cut(network)
    for i in range(count):
        (network.bulk if bulk else network.datagram)(A, B, 10, lambda i=i: got.append((i, clock.now_ns)))
    clock.run(10**12, lambda: False)
    assert network.bytes == count * (10 if bulk else 38)
    return got


def test_fair_weather() -> None:
    got = carry(Weather())
    assert sorted(i for i, _ in got) == list(range(400))
    assert all(100_000 <= at < 2_000_000 for _, at in got)
    assert [i for i, _ in got] != sorted(i for i, _ in got), "they overtake one another"


@pytest.mark.parametrize(
    ("weather", "low", "high"), [(Weather(loss=0.5), 150, 250), (Weather(duplicate=0.5), 550, 650), (Weather(loss=1.0), 0, 0)]
)
def test_bad_weather(weather: Weather, low: int, high: int) -> None:
    assert low <= len(carry(weather)) <= high


def test_streams_lose_nothing() -> None:
    assert len(carry(Weather(loss=1.0, duplicate=1.0), bulk=True)) == 400


@pytest.mark.parametrize("bulk", [False, True])
@pytest.mark.parametrize(
    ("cut", "count"),
    [
        (lambda n: n.partition(A, B), 0),
        (lambda n: n.partition(B, A), 0),
        (lambda n: n.partition(A, B, one_way=True), 0),
        (lambda n: n.partition(B, A, one_way=True), 400),
        (lambda n: (n.partition(A, B), n.heal()), 400),
    ],
)
def test_partitions(bulk: bool, cut, count: int) -> None:
    assert len(carry(Weather(), bulk=bulk, cut=cut)) == count
