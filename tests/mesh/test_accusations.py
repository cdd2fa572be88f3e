"""Silence: who is probed, who accuses, and what follows; several real Mesh objects, one network, virtual time."""

from typing import Any

import pytest

from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.wire import Ack, Ping, PingRequest

DEATH_S = 60


# -- death -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_killed_member_is_dead_for_all_in_time(net: Any, size: int) -> None:
    world = net.formed(*"abcde"[:size])
    world.kill("b")
    others = [name for name in world.hosts if name != "b"]
    assert world.run(DEATH_S, lambda: all(world.state(name, "b") == "dead" for name in others))
    world.run(0.6)
    for name in others:
        assert world.changes(name, "b") == ["alive", "suspect", "dead"]
        assert len(world[name].mesh.members[world["b"].id].evidence) >= min(2, size - 1)
        assert world[name].disk["members", (world["b"].id,)]["state"] == "dead"
        assert all(world.state(name, other) == "alive" for other in others if other != name), "nobody else was harmed"


def test_one_accuser_alone_is_never_enough(net: Any) -> None:
    """b can reach c no more, a can: c is relayed for, lives, and nobody believes b."""
    world = net.formed("a", "b", "c")
    for _ in range(30):
        world.tell("b", world.accusation("a", "c"))
        world["c"].mesh.poll_effects()
        member = world["b"].mesh.members[world["c"].id]
        assert list(member.evidence) == [world["a"].id]
        world.now_ns += 2 * NS_PER_S
        world["b"].mesh._membership.suspicion_over(world["c"].id, world.instant())
        assert member.state == "suspect"
    world.tell("b", world.accusation("b", "c"))
    assert len(member.evidence) == 1, "our own accusations come from our own probes, not from what is told to us"


def test_a_member_that_one_other_cannot_reach_lives(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
    b, c = world["b"].address, world["c"].address
    world.lose = lambda source, target: (source.address, target) in ((b, c), (c, b))
    world.run(DEATH_S)
    assert [world.state("b", "c"), world.state("c", "b"), world.state("a", "c"), world.state("d", "b")] == ["alive"] * 4
    assert world.changes("a", "c") == ["alive"], "a relay answered every time: nobody was even accused"


def test_a_relay_that_cannot_reach_the_target_says_so(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.kill("c")
    messages: list[object] = []
    real = world["a"].mesh._out.send
    world["a"].mesh._out.send = lambda peer, address, message: (messages.append(message), real(peer, address, message))[1]
    world["a"].mesh._detector.relay(world["b"].id, PingRequest(77, world["c"].id), world.instant())
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
    assert world.changes("a", "c") == ["alive", "suspect", "alive"]


def test_a_refutation_that_was_overtaken_is_not_announced_before_the_newer_one_is_durable(net: Any) -> None:
    world = net.formed("a", "b", "c")
    c, before = world["c"], world["c"].mesh.incarnation
    c.slow = True
    world.tell("c", world.accusation("b", "c", before))
    world.run(0.3)  # one refutation is owed to one accuser in the time of a probe
    world.tell("c", world.accusation("b", "c", before + 1))
    world.durable(c, *c.held.pop(0))
    world.run(2)
    assert c.mesh.incarnation == before + 2
    assert world["a"].mesh.members[c.id].alive.incarnation == before
    world.release("c")
    assert world.run(2, lambda: world["a"].mesh.members[c.id].alive.incarnation == before + 2)


def test_who_is_gone_accuses_nobody(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.leave("b")
    world.run(1)
    world.tell("a", world.accusation("b", "c"))
    assert world.state("a", "c") == "alive"


def test_a_member_held_for_dead_that_speaks_is_told_so(net: Any) -> None:
    world = net.formed("a", "b", "c")
    membership = world["a"].mesh._membership
    world["a"].mesh._detector._greet_lost = lambda now: None
    membership.set_state(membership.members[world["c"].id], "dead", world.instant())
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
    assert world.run(DEATH_S, lambda: world.state("c", "a") == world.state("c", "b") == "unreachable"), "it knows that it is the few"
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
    # d hears no accusations: its own stands alone, when the others have made up their minds and talk of it no more.
    d = world["d"].mesh._membership
    heard, d._take_suspect = d._take_suspect, lambda heard, claim, now: None
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    world.run(10)
    assert world.state("d", "c") == "suspect"
    assert list(d.members[world["c"].id].evidence) == [world["d"].id]
    for name in "ab":
        assert not len(world[name].mesh._membership._piggyback)
    d._take_suspect = heard
    assert world.run(DEATH_S, lambda: world.state("d", "c") == "dead")


# -- kinds of silence ------------------------------------------------------------------------------------------------


def test_an_agent_that_is_killed_while_its_host_is_up_is_agent_down_at_once(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world["c"].gone = False
    world.kill("c")
    assert world.run(1.4, lambda: world.state("a", "c") == world.state("b", "c") == "agent_down"), "long before a suspicion is over"
    assert set(world["a"].mesh.members[world["c"].id].evidence.values()) == {"refused"}
    assert len(world["a"].mesh.members[world["c"].id].evidence) == 2
    world.run(DEATH_S)
    for name in "ab":
        assert world.changes(name, "c") == ["alive", "suspect", "agent_down"], "and stays so"
        assert world[name].disk["members", (world["c"].id,)]["state"] == "agent_down"
    world.start("c")
    assert world.run(3, world.all_know_all)


def test_one_refusal_alone_is_not_believed(net: Any) -> None:
    """a's way to c ends at a host that refuses; b reaches c."""
    world = net.formed("a", "b", "c")
    world.tell("b", world.accusation("a", "c", evidence="refused"))
    assert world.state("b", "c") == "suspect"
    assert world.run(3, lambda: world.state("b", "c") == "alive")
    assert world.changes("b", "c") == ["alive", "suspect", "alive"]


def test_a_host_that_goes_down_after_its_agent_is_dead(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world["c"].gone = False
    world.kill("c")
    assert world.run(2, lambda: world.state("a", "c") == world.state("b", "c") == "agent_down")
    world["c"].gone = True
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    assert set(world["a"].mesh.members[world["c"].id].evidence.values()) == {"silent"}


def test_who_accepts_and_says_nothing_is_stalled_and_dead_only_later(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.mute["c"] = "mute"
    world.kill("c")
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "stalled")
    world.run(20)
    assert world.state("a", "c") == world.state("b", "c") == "stalled"
    assert world.run(30, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    assert world.changes("a", "c") == ["alive", "suspect", "stalled", "dead"]


def test_who_says_that_it_restarts_is_nobodys_suspect(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world["c"].mesh.restart()
    world.settle(world["c"])
    world.run(0.1)
    world["c"].gone = False
    world.kill("c")
    world.run(5)
    world.start("c")
    assert world.run(3, world.all_know_all)
    assert all(world.changes(name, "c") == ["alive", "agent_down", "alive"] for name in "ab")


# -- probes ----------------------------------------------------------------------------------------------------------


def test_a_liar_cannot_answer_for_a_dead_member(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
    world.kill("d")
    liar, victim = world["c"], world["a"]

    def lie() -> None:
        for sequence in range(victim.mesh._detector._prober.sequence + 2):
            if victim.up and liar.mesh._sessions.knows(victim.id):
                liar.mesh._membership.send(victim.id, Ack(sequence, b"", ()))
        world.settle(liar)

    direct = victim.mesh._detector._prober.start(world["d"].id, victim.mesh.members[world["d"].id].alive.incarnation)
    lie()
    world.run(0.1)
    assert direct.sequence in victim.mesh._detector._prober.open, "it was not asked"


def test_relayed_probes_are_bounded(net: Any) -> None:
    world = net.formed("a", "b", "c", limits=Limits(relayed_probes=8))
    a = world["a"]
    for sequence in range(50):
        a.mesh._detector.relay(world["b"].id, PingRequest(sequence, world["c"].id), world.instant())
    assert len(a.mesh._detector._prober.open) == 8
    a.mesh._detector.relay(world["b"].id, PingRequest(1, b"nobody" * 5), world.instant())
    a.mesh._detector.relay(world["b"].id, PingRequest(1, a.id), world.instant())
    assert len(a.mesh._detector._prober.open) == 8


def test_a_ping_is_answered_with_its_sequence(net: Any) -> None:
    world = net.formed("a", "b")
    sent: list[object] = []
    world["a"].mesh._membership.send = lambda peer, message: sent.append(message)
    world["a"].mesh._detector.ping(world["b"].id, Ping(2**64 - 1, b"", ()), world.instant())
    assert [m.sequence for m in sent if isinstance(m, Ack)] == [2**64 - 1]
