"""Who is there: several real Mesh objects, one network, virtual time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudisense.mesh.events import MemberChanged
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Alive, Left
from cloudisense.mesh.wire import PingRequest

DEATH_S = 60


def changes(net: Any, at: str, of: str) -> list[str]:
    return [item.state for item in net[at].news if isinstance(item, MemberChanged) and item.node == net[of].id]


# -- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_know_all_soon_after_they_started_with_one_seed(net: Any, size: int) -> None:
    world = net.formed(*"abcde"[:size])
    assert all(world.state(at, of) == "alive" for at in world.hosts for of in world.hosts if at != of)
    world.run(20)
    assert all(changes(world, at, of) == ["alive"] for at in world.hosts for of in world.hosts if at != of)
    assert all("malformed" not in reason for host in world.hosts.values() for reason in host.mesh.dropped)


def test_a_seed_that_starts_late_is_found(net: Any) -> None:
    world = net("a", "b", "c", up=False)
    for name in ("b", "c"):
        world.start(name)
    world.run(10)
    assert world["b"].mesh.present() == []
    world.start("a")
    assert world.run(3, world.all_know_all)


def test_a_late_joiner_learns_everybody_and_everybody_the_joiner(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.add("d")
    assert world.run(3, world.all_know_all)


def test_what_is_known_is_on_disk(net: Any) -> None:
    world = net.formed("a", "b")
    [row] = world["a"].rows("members")
    assert (row["node"], row["state"]) == (world["b"].id, "alive")
    assert row["claim"] == world["b"].mesh._membership.claim


def test_claims_larger_than_a_datagram_in_sum_travel_in_parts(net: Any) -> None:
    world = net.formed(*(f"n{i}" for i in range(8)), limits=Limits(bulk_bytes=6000))
    assert world.run(10, lambda: world.all_know_all() and world.same_feeds())
    assert not any(host.mesh.dropped["message too large to send"] for host in world.hosts.values())
    assert any(data[1] == 5 for host in world.hosts.values() for data in host.bulk), "the rest came as claims"


# -- death -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_killed_member_is_dead_for_all_in_time(net: Any, size: int) -> None:
    world = net.formed(*"abcde"[:size])
    world.kill("b")
    others = [name for name in world.hosts if name != "b"]
    assert world.run(DEATH_S, lambda: all(world.state(name, "b") == "dead" for name in others))
    world.run(0.01)
    for name in others:
        assert changes(world, name, "b") == ["alive", "suspect", "dead"]
        assert len(world[name].mesh.members[world["b"].id].accusers) >= min(2, size - 1)
        assert world[name].disk["members", (world["b"].id,)]["state"] == "dead"
        assert all(world.state(name, other) == "alive" for other in others if other != name), "nobody else was harmed"


def test_one_accuser_alone_is_never_enough(net: Any) -> None:
    """b can reach c no more, a can: c is relayed for, lives, and nobody believes b."""
    world = net.formed("a", "b", "c")
    for _ in range(30):
        world.tell("b", world.accusation("a", "c"))
        world["c"].mesh.poll_effects()
        member = world["b"].mesh.members[world["c"].id]
        assert list(member.accusers) == [world["a"].id]
        world.now_ns += 2 * NS_PER_S
        world["b"].mesh._membership.suspicion_over(world["c"].id, world.instant())
        assert member.state == "suspect"
    world.tell("b", world.accusation("b", "c"))
    assert len(member.accusers) == 1, "our own accusations come from our own probes, not from what is told to us"


def test_a_member_that_one_other_cannot_reach_lives(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
    b, c = world["b"].address, world["c"].address
    world.lose = lambda source, target: (source.address, target) in ((b, c), (c, b))
    world.run(DEATH_S)
    assert [world.state("b", "c"), world.state("c", "b"), world.state("a", "c"), world.state("d", "b")] == ["alive"] * 4
    assert changes(world, "a", "c") == ["alive"], "a relay answered every time: nobody was even accused"


def test_a_relay_that_cannot_reach_the_target_says_so(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.kill("c")
    messages: list[object] = []
    real = world["a"].mesh._out.send
    world["a"].mesh._out.send = lambda peer, address, message: (messages.append(message), real(peer, address, message))[1]
    world["a"].mesh._membership.relay(world["b"].id, PingRequest(77, world["c"].id), world.instant())
    world.settle(world["a"])
    world.run(0.5)
    assert "Nack(sequence=77)" in [str(message) for message in messages]


def test_a_suspect_refutes_with_a_higher_incarnation_that_is_durable_first(net: Any) -> None:
    world = net.formed("a", "b", "c")
    c = world["c"]
    before = c.mesh.incarnation
    c.slow = True
    world.tell("a", world.accusation("b", "c"))
    world.run(2)
    assert world.state("a", "c") == "suspect"
    assert [world[name].mesh.members[c.id].alive.incarnation for name in "ab"] == [before] * 2
    assert c.number("incarnation") == before
    world.release("c")
    assert world.run(2, lambda: world.state("a", "c") == world.state("b", "c") == "alive")
    assert c.number("incarnation") == c.mesh.incarnation == before + 1
    world.run(30)
    assert changes(world, "a", "c") == ["alive", "suspect", "alive"]


def test_a_refutation_that_was_overtaken_is_not_announced_before_the_newer_one_is_durable(net: Any) -> None:
    world = net.formed("a", "b", "c")
    c, before = world["c"], world["c"].mesh.incarnation
    c.slow = True
    world.tell("c", world.accusation("b", "c", before))
    world.tell("c", world.accusation("b", "c", before + 1))
    world.durable(c, *c.held.pop(0))
    world.run(2)
    assert c.mesh.incarnation == before + 2
    assert world["a"].mesh.members[c.id].alive.incarnation == before
    world.release("c")
    assert world.run(2, lambda: world["a"].mesh.members[c.id].alive.incarnation == before + 2)


def test_who_is_accused_hears_it_first_and_nobody_hears_it_after_the_refutation(net: Any) -> None:
    world = net.formed("a", "b", "c")
    a, c, start = world["a"], world["c"], world.now_ns
    membership = a.mesh._membership
    membership._probe_failed(membership._prober.start(c.id, c.mesh.incarnation), world.instant())
    world.settle(a)
    assert world.run(1, lambda: c.mesh.incarnation == 2)
    assert world.now_ns - start < 2_000_000, "directly, not by gossip"
    assert world.run(3, lambda: world.state("a", "c") == "alive")
    assert all(subject != c.id or author == c.id for subject, author in membership._piggyback._queue)


def test_who_is_gone_accuses_nobody(net: Any) -> None:
    world = net.formed("a", "b", "c")
    leave(world, "b")
    world.run(1)
    world.tell("a", world.accusation("b", "c"))
    assert world.state("a", "c") == "alive"


def test_a_member_held_for_dead_that_speaks_is_told_so(net: Any) -> None:
    world = net.formed("a", "b", "c")
    membership = world["a"].mesh._membership
    membership._greet_lost = lambda: None
    membership._set_state(membership.members[world["c"].id], "dead", world.instant())
    world.settle(world["a"])
    assert world.state("a", "c") == "dead"
    assert world.run(4, lambda: world.state("a", "c") == "alive")


def test_an_accusation_of_a_made_up_height_does_nothing(net: Any) -> None:
    """One that counted would count for ever: every refutation is below it."""
    world = net.formed("a", "b", "c")
    before = world["c"].mesh.incarnation
    for name in "abc":
        world.tell(name, world.accusation("b", "c", incarnation=2**62))
    world.run(5)
    assert world.state("a", "c") == "alive"
    assert world["c"].mesh.incarnation == before


def test_a_suspect_hears_of_it_with_the_next_ping_even_when_gossip_is_over(net: Any) -> None:
    world = net.formed("a", "b", "c")
    membership = world["a"].mesh._membership
    world.tell("a", world.accusation("b", "c"))
    membership._piggyback = type(membership._piggyback)()
    world["a"].mesh.poll_effects()
    assert world.run(3, lambda: world.state("a", "c") == "alive")


def test_who_was_only_cut_off_comes_back_on_both_sides(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.cut("c")
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    assert world.run(DEATH_S, lambda: world.state("c", "a") == world.state("c", "b") == "dead")
    world.heal()
    assert world.run(10, world.all_know_all)
    world.run(10)
    assert all(world.state(at, of) == "alive" for at in "abc" for of in "abc" if at != of)


def test_two_nodes_that_lost_each_other_meet_again(net: Any) -> None:
    world = net.formed("a", "b")
    world.cut("b")
    assert world.run(DEATH_S, lambda: world.state("a", "b") == world.state("b", "a") == "dead")
    world.heal()
    assert world.run(10, world.all_know_all)


def test_who_comes_after_a_death_learns_it(net: Any) -> None:
    """The others accuse no more: what they hold must convince a newcomer, and who restarts."""
    world = net.formed("a", "b", "c")
    world.kill("c")
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    world.add("d")
    assert world.run(DEATH_S, lambda: world.state("d", "c") == "dead")
    world.kill("b")
    world.start("b")
    assert world.run(DEATH_S, lambda: world.state("b", "c") == "dead")
    assert world.run(5, world.all_know_all)


def test_who_missed_the_accusations_asks(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
    world.kill("c")
    # d hears no claims: its own accusation stands alone, when the others have made up their minds.
    for _ in range(DEATH_S):
        world.run(1)
        for host in (world["a"], world["b"]):
            host.mesh._membership._piggyback = type(host.mesh._membership._piggyback)()
        world["d"].mesh.members[world["c"].id].accusers.clear()
        if world.state("a", "c") == world.state("b", "c") == "dead":
            break
    assert world.state("d", "c") != "dead"
    assert world.run(DEATH_S, lambda: world.state("d", "c") == "dead")


# -- leaving and coming back -----------------------------------------------------------------------------------------


def leave(net: Any, name: str) -> None:
    net[name].mesh.leave()
    net.settle(net[name])


def test_who_left_stays_left_for_all_and_for_those_who_come_later(net: Any) -> None:
    world = net.formed("a", "b", "c")
    leave(world, "c")
    world.run(0.3)
    assert world.state("a", "c") == world.state("b", "c") == "left"
    world.kill("c")
    world.run(20)  # nobody talks of it any more
    world.add("d")
    world.kill("b")
    world.start("b")
    world.run(DEATH_S)
    assert [world.state(name, "c") for name in "abd"] == ["left"] * 3
    assert changes(world, "a", "c") == ["alive", "left"]
    bulk = sum(len(host.bulk) for host in world.hosts.values())
    world.run(30)
    assert sum(len(host.bulk) for host in world.hosts.values()) == bulk, "and all is quiet: no digest differs"


def test_a_leave_that_reached_only_one_spreads(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
    a = world["a"].address
    world.lose = lambda source, target: source.name == "d" and target != a
    leave(world, "d")
    world.kill("d")
    assert world.run(5, lambda: [world.state(name, "d") for name in "abc"] == ["left"] * 3)


def test_who_refutes_while_leaving_stays_left(net: Any) -> None:
    world = net.formed("a", "b", "c")
    c = world["c"]
    c.slow = True
    world.tell("c", world.accusation("a", "c"))
    leave(world, "c")
    world.release("c")
    world.tell("c", world.accusation("b", "c"))
    world.run(5)
    assert world.state("a", "c") == world.state("b", "c") == "left"
    assert c.number("incarnation") == c.mesh.incarnation == 2, "one refutation, before; none after"


def test_a_claim_no_higher_than_the_leave_does_not_undo_it(net: Any) -> None:
    world = net.formed("a", "c")
    c = world["c"]
    known = world["a"].mesh.members[c.id].alive
    higher = [Alive(c.id, "c", known.host, known.port, known.incarnation + i, known.boot, known.session_public) for i in (1, 2)]
    world.tell("a", world.claim(c.member.identity, "left", Left(c.id, known.incarnation + 1)))
    for claim, state in zip(higher, ("left", "alive"), strict=True):
        world.tell("a", (world.claim(c.member.identity, "alive", claim)[0], c.member.certificate))
        assert world.state("a", "c") == state


def test_who_left_may_start_again(net: Any) -> None:
    world = net.formed("a", "b", "c")
    leave(world, "c")
    world.run(1)
    world.kill("c")
    world.start("c")
    assert world.run(5, world.all_know_all)


def test_a_restart_is_accepted_and_the_old_session_is_over(net: Any) -> None:
    world = net.formed("a", "b")
    b = world["b"]
    old = world["a"].mesh.members[b.id].alive
    world.run(3)
    sealed = [(data, source) for data, source in b.heard if data[:2] == b"\x01\x01"][-1]
    from_b = [(data, source) for data, source in world["a"].heard if data[:2] == b"\x01\x01"][-1]
    world.kill("b")
    world.start("b")
    assert world.run(3, lambda: world["a"].mesh.members[b.id].alive.boot == old.boot + 1)
    new = world["a"].mesh.members[b.id].alive
    assert new.incarnation > old.incarnation
    assert new.session_public != old.session_public
    for host, (data, source), reason in ((b, sealed, "for another key"), (world["a"], from_b, "replayed")):
        before = host.mesh.dropped[reason]
        host.mesh.handle_datagram(data, source, world.instant())
        assert host.mesh.dropped[reason] == before + 1
    world.run(DEATH_S)
    assert world.state("a", "b") == world.state("b", "a") == "alive"


def test_a_state_restored_from_an_old_copy_is_no_forger(net: Any) -> None:
    world = net.formed("a", "b", "c")
    copy = dict(world["c"].disk)
    for _ in range(3):
        world.kill("c")
        world.start("c")
        world.run(3)
    assert world["a"].mesh.members[world["c"].id].alive.incarnation == 4
    world.kill("c")
    world["c"].disk = copy
    world.start("c")
    assert world.run(10, lambda: world["a"].mesh.members[world["c"].id].alive.session_public == world["c"].mesh._sessions.key.public)
    assert world.run(5, world.all_know_all)
    world.say("c", b"after")
    assert world.run(2, lambda: world["c"].delivered() == 1)


def test_a_claim_in_our_own_name_that_we_did_not_sign_moves_nothing(net: Any) -> None:
    world = net.formed("a", "b")
    a, before = world["a"], world["a"].mesh.incarnation
    forged = Alive(a.id, "a", "10.0.0.1", 7963, before + 7, 1, b"k" * 32)
    for by in (world["b"].member.identity, world.keys.foreign.identity):
        world.tell("a", (world.claim(by, "alive", forged)[0], a.member.certificate))
    world.run(2)
    assert a.mesh.incarnation == before
    assert a.mesh.dropped["malformed alive claim"] == 2


# -- everything at once ----------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(0, 2**32), st.floats(0, 0.3), st.sets(st.sampled_from("abcde"), max_size=2), st.booleans())
def test_after_any_weather_all_agree_on_who_is_there(net: Any, seed: int, loss: float, killed: set[str], back: bool) -> None:
    world = net(*"abcde")
    world.rng.seed(seed)
    world.lose = lambda source, target: world.rng.random() < loss
    world.run(8)
    for name in sorted(killed):
        world.kill(name)
    world.run(15)
    for name in sorted(killed) if back else ():
        world.start(name)
    world.run(15)
    world.heal()
    assert world.run(DEATH_S, lambda: world.all_know_all() and world.same_feeds())
    world.run(5)
    assert world.all_know_all()


def test_the_same_seed_makes_the_same_traffic(net: Any) -> None:
    def traffic() -> list[bytes]:
        world = net(*"abcd")
        world.run(2)
        world.say("a")
        world.kill("c")
        world.run(10)
        return [data for host in world.hosts.values() for data, _ in host.heard]

    assert traffic() == traffic()


def test_gossip_is_silent_when_there_is_no_news(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.run(20)
    sends = world.sends
    world.run(10)
    assert world.sends - sends <= 3 * 10 * 2 + 6, "a ping and an ack per node and second, and nothing else"
