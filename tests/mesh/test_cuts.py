"""Whole meshes in virtual time: cuts, flapping links and our own freezes, and that everybody comes back by itself."""

import statistics

import pytest

from cloudisense.mesh.limits import LAN
from cloudisense.sim.meshes import Host, Meshes


def together(count: int, seed: int = 1) -> Meshes:
    world = Meshes(count, seed)
    assert world.run(5, world.whole)
    world.run(3)
    return world


def apart(world: Meshes, some: list[Host], others: list[Host]) -> bool:
    return all(world.state(x, y) in ("dead", "unreachable") for x in some for y in others)


def accused(world: Meshes, healthy: list[Host]) -> list[tuple[str, str, str]]:
    """(at, of, state) of every time that one of ``healthy`` was called anything but alive."""
    return [(at.name, of.name, s) for at in healthy for of in healthy for s in world.changes(at, of) if s != "alive"]


def test_whoever_was_suspended_for_long_accuses_nobody() -> None:
    world = together(6)
    sleeper = world[1]
    sleeper.vanished = sleeper.stopped = True
    world.run(600)
    asleep_ns = world.clock.now_ns
    sleeper.vanished = False
    world.go_on(sleeper)
    world.run(20)
    assert world.whole()
    assert all("dead" not in world.changes(sleeper, of, asleep_ns) for of in world.hosts if of is not sleeper)
    assert not accused(world, [h for h in world.hosts if h is not sleeper])


def test_a_stalled_member_is_not_dead_just_because_we_slept() -> None:
    world = together(5)
    stopped, sleeper = world[3], world[1]
    stopped.stopped = True
    assert world.run(15, lambda: world.state(sleeper, stopped) == "stalled")
    sleeper.stopped = sleeper.vanished = True
    world.run(20)
    world.go_on(stopped)
    world.run(60)
    sleeper.vanished = False
    world.go_on(sleeper)
    world.run(10)
    assert "dead" not in world.changes(sleeper, stopped)
    assert world.whole()


def test_a_minority_calls_the_rest_unreachable_and_comes_back_by_itself() -> None:
    world = together(7)
    few, many = world.hosts[:2], world.hosts[2:]
    world.cut(few, many)
    assert world.run(15, lambda: all(world.state(f, m) == "unreachable" for f in few for m in many))
    assert world.run(15, lambda: all(world.state(m, f) == "dead" for f in few for m in many))
    world.run(60)
    assert all("dead" not in world.changes(f, m)[-1:] for f in few for m in many)
    world.network.heal()
    assert world.seconds_until(world.whole, 10) <= 2


def test_five_against_five_is_seen_and_healed_in_time() -> None:
    seen: list[float] = []
    healed: list[float] = []
    for seed in range(1, 4):
        world = together(10, seed)
        left, right = world.hosts[:5], world.hosts[5:]
        world.cut(left, right)
        seen.append(world.seconds_until(lambda w=world, a=left, b=right: apart(w, a, b) and apart(w, b, a), 30))
        world.run(20)
        world.network.heal()
        healed.append(world.seconds_until(world.whole, 30))
    assert statistics.median(seen) <= 5, seen
    assert statistics.median(healed) <= 1, healed


def test_a_one_way_flip_flop_costs_each_observer_one_failure_and_one_return() -> None:
    world = together(10)
    victim, others = world[4], [h for h in world.hosts if h is not world[4]]
    for _ in range(3):
        world.cut([victim], others, one_way=True)
        world.run(20)
        world.network.heal()
        world.run(20)
    world.run(60)
    assert world.whole()
    for host in others:
        failures = [s for s in world.changes(host, victim) if s in ("dead", "unreachable", "stalled", "agent_down")]
        assert len(failures) <= 1, (host.name, failures)
    assert not accused(world, others)


def test_few_confirm_what_many_hear() -> None:
    """Everyone hears an accusation; only the chosen probe because of it, or one death would cost N probes a second time."""
    world = together(25)
    victim = world[7]
    victim.vanished = True
    world.run(20, lambda: world.all_see(victim, "dead"))
    evidence = [len(h.live().members[victim.id].evidence) for h in world.hosts if h is not victim]
    assert max(evidence) <= 2 * LAN.confirmers + LAN.hurried_probes


def test_one_that_hears_nobody_makes_nobody_dead() -> None:
    """It sends, but nothing reaches it: the others hear its accusations and refute them."""
    world = together(8)
    deaf, others = world[0], world.hosts[1:]
    world.cut(others, [deaf], one_way=True)
    world.run(60)
    assert not accused(world, others)


@pytest.mark.parametrize("seed", [1, 2])
def test_two_who_meet_different_silences_do_not_shout_each_other_down(seed: int) -> None:
    """An agent is down; one node is cut off from its host and meets silence, the others are refused. Each says so once."""
    world = together(10, seed)
    victim, beyond = world[2], world[0]
    world.kill(victim)
    world.run(8)
    world.cut([beyond], [victim])
    before = world.network.bytes
    world.run(40)
    assert world.all_see(victim, "agent_down"), "one who cannot see the host does not overrule those who can"
    assert (world.network.bytes - before) / 40 / len(world.hosts) < 2000  # B/s a node; 21 kB/s when they take each other's word away
    world.network.heal()
    world.start(victim)
    assert world.seconds_until(world.whole, 5) < 1


def test_the_witnesses_of_a_stopped_agent_may_die_too() -> None:
    world = together(8)
    victim, witnesses = world[2], world.hosts[3:5]
    world.kill(victim)
    assert world.run(3, lambda: world.all_see(victim, "agent_down"))
    for host in (victim, *witnesses):
        host.vanished = True
    assert world.run(60, lambda: all(world.all_see(host, "dead") for host in (victim, *witnesses)))


def test_a_host_that_died_and_booted_again_is_known_to_die_again() -> None:
    """Only a link flaps: one that was really down and came back from a new boot is not held in suspicion when it goes for good."""
    world = together(10)
    victim = world[4]
    for _ in range(3):
        world.kill(victim)
        victim.vanished = True
        assert world.seconds_until(lambda: world.all_see(victim, "dead"), 60) < 6
        world.run(5)
        world.start(victim)
        assert world.seconds_until(world.whole, 5) < 1
        world.run(5)


def test_a_cut_is_seen_in_time_although_some_had_died_and_come_back() -> None:
    world = together(10)
    for victim in world.hosts[3:6]:
        victim.vanished = True
        assert world.run(20, lambda v=victim: world.all_see(v, "dead"))
        world.kill(victim)
        world.start(victim)
        assert world.run(5, world.whole)
    left, right = world.hosts[:5], world.hosts[5:]
    world.cut(left, right)
    assert world.seconds_until(lambda: apart(world, left, right) and apart(world, right, left), 40) < 7


def test_what_an_earlier_life_held_for_dead_has_not_flapped() -> None:
    world = together(6)
    sleeper, victim = world[1], world[4]
    world.cut([sleeper], [h for h in world.hosts if h is not sleeper])
    assert world.run(20, lambda: all(world.state(sleeper, h) in ("dead", "unreachable") for h in world.hosts if h is not sleeper))
    world.kill(sleeper)
    world.network.heal()
    world.start(sleeper)
    assert world.run(10, world.whole)
    victim.vanished = True
    assert world.seconds_until(lambda: world.state(sleeper, victim) == "dead", 40) < 6
