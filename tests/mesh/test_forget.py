"""Departures that last: left, forgotten by an operator, reinstalled; no gossip and no restart brings them back."""

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.member import Forgotten
from cloudisense.sim.meshes import Host, Meshes

OPERATOR = Identity.generate(HashRng("cloudisense test mesh 1 operator identity"))


def together(count: int) -> Meshes:
    world = Meshes(count)
    assert world.run(5, world.whole)
    world.run(3)
    return world


def forget(world: Meshes, at: Host, of: Host, by: Identity = OPERATOR, incarnation: int = 0) -> None:
    known = at.live().members[of.id]
    claim = seal(by, "forgotten", world.keys.mesh_id, pack(Forgotten(of.id, incarnation or known.alive.incarnation)))
    at.live()._guarded(lambda: at.live().forget(claim, world.clock.instant()))
    world.settle(at)


def test_forgotten_everywhere_and_after_every_restart() -> None:
    world = together(5)
    gone, rest = world[3], [h for h in world.hosts if h is not world[3]]
    gone.vanished = True
    assert world.run(20, lambda: world.all_see(gone, "dead"))
    forget(world, rest[0], gone)
    assert world.seconds_until(lambda: world.all_see(gone, "forgotten"), 5) < 1
    world.run(2)
    for host in rest:
        world.kill(host)
        world.start(host)
    world.run(20)
    assert world.all_see(gone, "forgotten")
    joiner = world.add()
    assert world.run(10, lambda: world.state(joiner, gone) == "forgotten")


def test_one_that_was_away_learns_it_later() -> None:
    world = together(5)
    gone, away = world[3], world[4]
    gone.vanished = away.vanished = True
    world.run(20)
    away.vanished = False
    world.kill(away)
    rest = world.hosts[:3]
    assert world.run(20, lambda: world.all_see(gone, "dead", rest))
    forget(world, rest[0], gone)
    world.run(60)
    world.start(away)
    assert world.run(15, lambda: world.state(away, gone) == "forgotten")


def test_only_an_operator_may_and_only_the_absent() -> None:
    world = together(4)
    gone, rest = world[3], world.hosts[:3]
    forget(world, rest[0], gone)
    world.run(2)
    assert world.whole(), "it is alive, so nothing happens"
    gone.vanished = True
    assert world.run(20, lambda: world.all_see(gone, "dead"))
    for stranger in (rest[0].member.identity, world.keys.foreign.identity, world.keys.root):
        forget(world, rest[0], gone, stranger)
    world.run(2)
    assert world.all_see(gone, "dead")
    assert rest[0].live().dropped["claim without the role"] == 3


def test_who_was_forgotten_too_early_comes_back_by_itself() -> None:
    world = together(4)
    gone = world[3]
    gone.vanished = True
    assert world.run(20, lambda: world.all_see(gone, "dead"))
    forget(world, world[0], gone)
    world.run(5)
    gone.vanished = False
    assert world.run(60, world.whole)


def test_left_stays_left_when_an_observer_restarts() -> None:
    world = together(4)
    gone = world[3]
    gone.live().leave()
    world.settle(gone)
    world.run(0.5)
    world.kill(gone)
    for host in world.hosts[:3]:
        world.kill(host)
        world.start(host)
    world.run(15)
    assert world.all_see(gone, "left")
    world.start(gone)
    assert world.run(5, world.whole)


def test_a_host_reinstalled_is_a_new_node_and_the_old_one_does_not_linger() -> None:
    world = together(4)
    old = world[3]
    world.kill(old)
    new = world.add("n4-again", address=old.address)
    world.hosts.remove(old)
    assert world.run(20, lambda: all(world.state(h, old) == "agent_down" for h in world.hosts))
    assert world.run(5, lambda: all(world.state(h, new) == "alive" for h in world.hosts if h is not new))
    forget(world, world[0], old)
    assert world.run(5, lambda: all(world.state(h, old) == "forgotten" for h in world.hosts))
    world.run(30)
    assert all(set(world.changes(h, new)) == {"alive"} for h in world.hosts if h is not new)


def test_dead_for_long_is_dead_to_those_who_restart_or_join() -> None:
    """Alone with their own failed probe they would wait for a second accuser for ever, and count on the dead meanwhile."""
    world = together(6)
    gone = world[4]
    gone.vanished = True
    assert world.run(20, lambda: world.all_see(gone, "dead"))
    world.run(120)
    world.kill(world[1])
    world.start(world[1])
    # One at a time: two of them would be accusers enough by themselves.
    assert world.run(30, lambda: world.state(world[1], gone) == "dead")
    joiner = world.add()
    assert world.run(30, lambda: world.state(joiner, gone) == "dead")
