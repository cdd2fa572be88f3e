"""One disk, two living hosts: both find out, and act for nobody. A disk that was set back is no clone."""

import copy
import random
from typing import Any

import pytest

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.core import Agent
from cloudisense.agent.settings import Settings
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.events import Misbehaved
from cloudisense.sim.disk import Disk
from cloudisense.sim.meshes import Host, Meshes


def set_back(world: Meshes, host: Host, rows: Any) -> None:
    host.disk = Disk(world.clock, random.Random(1))
    host.disk._tables.update(copy.deepcopy(rows))


def disk_of(host: Host) -> Any:
    return copy.deepcopy(host.disk._tables)


@pytest.mark.parametrize("seed", range(5))
def test_two_copies_find_out(seed: int) -> None:
    world = Meshes(4, seed)
    assert world.run(5, world.whole)
    other = world.add("n2", member=world[1].member)
    set_back(world, other, disk_of(world[1]))
    world.start(other)
    assert world.run(60, lambda: world[1].live().cloned and other.live().cloned)
    for host in (world[1], other):
        assert world.told(host, Misbehaved) == [Misbehaved(host.id, "cloned")]
        agent = Agent(host.live(), bytes(16), Catalogue((), ()), Settings(), HashRng("agent"))
        assert not agent._speech.may_act(host.id), "the one may have been told to do what the other does"
        assert not agent._speech.may_act(world[0].id), "nor does it grant"
    assert not any(world[i].live().cloned for i in (0, 2, 3))


@pytest.mark.parametrize("seed", range(5))
def test_a_disk_that_was_set_back_is_no_clone(seed: int) -> None:
    world = Meshes(4, seed)
    assert world.run(5, world.whole)
    before = disk_of(world[1])
    for _ in range(6):
        world.kill(world[1])
        world.run(1)
        world.start(world[1])
        world.run(6)
    world.kill(world[1])
    set_back(world, world[1], before)
    world.start(world[1])
    world.run(60)
    assert world.whole() and not world[1].live().cloned
