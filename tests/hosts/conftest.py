"""Worlds of real hosts for these tests, which are skipped, with the reason, where hosts cannot be made."""

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from benchmarks.hosts import World, missing, wait_for
from benchmarks.mesh.ours import Ours

reason = functools.cache(missing)


@pytest.fixture
def make_world() -> Iterator[Callable[[int], World]]:
    """Worlds that end with the test."""
    if (problem := reason()) is not None:
        pytest.skip(problem)
    with ExitStack() as stack:
        yield lambda count: stack.enter_context(World(count))


@pytest.fixture
def make_mesh(make_world: Callable[[int], World]) -> Iterator[Callable[[int], Ours]]:
    """Meshes of that many agents, each on a host of its own, that see each other."""
    made: list[Ours] = []

    def make(count: int) -> Ours:
        mesh = Ours(make_world(count), random.Random(count))
        made.append(mesh)
        mesh.start(mesh.seats.values())
        assert wait_for(mesh.whole, 30), mesh.strangers()
        return mesh

    yield make
    for mesh in made:
        mesh.stop(kill=True)
