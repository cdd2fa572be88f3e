"""Who is there: several real Mesh objects, one network, virtual time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.mesh.events import MemberChanged
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Alive, Left, Suspect
from cloudisense.mesh.wire import Ack, Ping, PingRequest

DEATH_S = 60


def claim_of(net: Any, by: Identity, kind: str, body: object) -> tuple[bytes, bytes]:
    return seal(by, kind, net.keys.mesh_id, pack(body)), b""


def accusation(net: Any, by: str, of: str, incarnation: int = 0) -> tuple[bytes, bytes]:
    known = net[of].mesh.incarnation
    return claim_of(net, net[by].member.identity, "suspect", Suspect(net[of].id, incarnation or known, net[by].id, "silent"))


def tell(net: Any, to: str, *claims: tuple[bytes, bytes]) -> None:
    """Claims as a peer's gossip brings them."""
    net[to].mesh._membership.take_claims(claims, net.instant())
    net.settle(net[to])


def changes(net: Any, at: str, of: str) -> list[str]:
    return [item.state for item in net[at].news if isinstance(item, MemberChanged) and item.node == net[of].id]


def formed(net: Any, *names: str, **settings: Any) -> Any:
    world = net(*names, **settings)
    assert world.run(5, world.all_know_all)
    assert world.run(5, world.same_feeds)
    world.run(0.01)  # what is known is on disk, too
    return world


# -- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_know_all_soon_after_they_started_with_one_seed(net: Any, size: int) -> None:
    world = formed(net, *"abcde"[:size])
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
    world = formed(net, "a", "b", "c")
    world.add("d")
    assert world.run(3, world.all_know_all)


def test_what_is_known_is_on_disk(net: Any) -> None:
    world = formed(net, "a", "b")
    [row] = world["a"].rows("members")
    assert (row["node"], row["state"]) == (world["b"].id, "alive")
    assert row["claim"] == world["b"].mesh._membership.claim


def test_claims_larger_than_a_datagram_in_sum_travel_in_parts(net: Any) -> None:
    world = formed(net, *(f"n{i}" for i in range(8)), limits=Limits(bulk_bytes=6000))
    assert world.run(10, lambda: world.all_know_all() and world.same_feeds())
    assert not any(host.mesh.dropped["message too large to send"] for host in world.hosts.values())
    assert any(data[1] == 5 for host in world.hosts.values() for data in host.bulk), "the rest came as claims"


# -- death -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 3, 5])
def test_a_killed_member_is_dead_for_all_in_time(net: Any, size: int) -> None:
    world = formed(net, *"abcde"[:size])
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
    world = formed(net, "a", "b", "c")
    for _ in range(30):
        tell(world, "b", accusation(world, "a", "c"))
        world["c"].mesh.poll_effects()
        member = world["b"].mesh.members[world["c"].id]
        assert list(member.accusers) == [world["a"].id]
        world.now_ns += 2 * NS_PER_S
        world["b"].mesh._membership.suspicion_over(world["c"].id, world.instant())
        assert member.state == "suspect"
    tell(world, "b", accusation(world, "b", "c"))
    assert len(member.accusers) == 1, "our own accusations come from our own probes, not from what is told to us"


def test_a_member_that_one_other_cannot_reach_lives(net: Any) -> None:
    world = formed(net, "a", "b", "c", "d")
    b, c = world["b"].address, world["c"].address
    world.lose = lambda source, target: (source.address, target) in ((b, c), (c, b))
    world.run(DEATH_S)
    assert [world.state("b", "c"), world.state("c", "b"), world.state("a", "c"), world.state("d", "b")] == ["alive"] * 4
    assert changes(world, "a", "c") == ["alive"], "a relay answered every time: nobody was even accused"


def test_a_relay_that_cannot_reach_the_target_says_so(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    world.kill("c")
    messages: list[object] = []
    real = world["a"].mesh._out.send
    world["a"].mesh._out.send = lambda peer, address, message: (messages.append(message), real(peer, address, message))[1]
    world["a"].mesh._membership.relay(world["b"].id, PingRequest(77, world["c"].id), world.instant())
    world.settle(world["a"])
    world.run(0.5)
    assert "Nack(sequence=77)" in [str(message) for message in messages]


def test_a_suspect_refutes_with_a_higher_incarnation_that_is_durable_first(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    c = world["c"]
    before = c.mesh.incarnation
    c.slow = True
    tell(world, "a", accusation(world, "b", "c"))
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
    world = formed(net, "a", "b", "c")
    c, before = world["c"], world["c"].mesh.incarnation
    c.slow = True
    tell(world, "c", accusation(world, "b", "c", before))
    tell(world, "c", accusation(world, "b", "c", before + 1))
    world.durable(c, *c.held.pop(0))
    world.run(2)
    assert c.mesh.incarnation == before + 2
    assert world["a"].mesh.members[c.id].alive.incarnation == before
    world.release("c")
    assert world.run(2, lambda: world["a"].mesh.members[c.id].alive.incarnation == before + 2)


def test_who_is_gone_accuses_nobody(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    leave(world, "b")
    world.run(1)
    tell(world, "a", accusation(world, "b", "c"))
    assert world.state("a", "c") == "alive"


def test_a_member_held_for_dead_that_speaks_is_told_so(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    membership = world["a"].mesh._membership
    membership._greet_lost = lambda: None
    membership._set_state(membership.members[world["c"].id], "dead", world.instant())
    world.settle(world["a"])
    assert world.state("a", "c") == "dead"
    assert world.run(4, lambda: world.state("a", "c") == "alive")


def test_an_accusation_of_a_made_up_height_does_nothing(net: Any) -> None:
    """One that counted would count for ever: every refutation is below it."""
    world = formed(net, "a", "b", "c")
    before = world["c"].mesh.incarnation
    for name in "abc":
        tell(world, name, accusation(world, "b", "c", incarnation=2**62))
    world.run(5)
    assert world.state("a", "c") == "alive"
    assert world["c"].mesh.incarnation == before


def test_a_suspect_hears_of_it_with_the_next_ping_even_when_gossip_is_over(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    membership = world["a"].mesh._membership
    tell(world, "a", accusation(world, "b", "c"))
    membership._piggyback = type(membership._piggyback)()
    world["a"].mesh.poll_effects()
    assert world.run(3, lambda: world.state("a", "c") == "alive")


def test_who_was_only_cut_off_comes_back_on_both_sides(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    world.cut("c")
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    assert world.run(DEATH_S, lambda: world.state("c", "a") == world.state("c", "b") == "dead")
    world.heal()
    assert world.run(10, world.all_know_all)
    world.run(10)
    assert all(world.state(at, of) == "alive" for at in "abc" for of in "abc" if at != of)


def test_two_nodes_that_lost_each_other_meet_again(net: Any) -> None:
    world = formed(net, "a", "b")
    world.cut("b")
    assert world.run(DEATH_S, lambda: world.state("a", "b") == world.state("b", "a") == "dead")
    world.heal()
    assert world.run(10, world.all_know_all)


def test_who_comes_after_a_death_learns_it(net: Any) -> None:
    """The others accuse no more: what they hold must convince a newcomer, and who restarts."""
    world = formed(net, "a", "b", "c")
    world.kill("c")
    assert world.run(DEATH_S, lambda: world.state("a", "c") == world.state("b", "c") == "dead")
    world.add("d")
    assert world.run(DEATH_S, lambda: world.state("d", "c") == "dead")
    world.kill("b")
    world.start("b")
    assert world.run(DEATH_S, lambda: world.state("b", "c") == "dead")
    assert world.run(5, world.all_know_all)


def test_who_missed_the_accusations_asks(net: Any) -> None:
    world = formed(net, "a", "b", "c", "d")
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
    world = formed(net, "a", "b", "c")
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
    world = formed(net, "a", "b", "c", "d")
    a = world["a"].address
    world.lose = lambda source, target: source.name == "d" and target != a
    leave(world, "d")
    world.kill("d")
    assert world.run(5, lambda: [world.state(name, "d") for name in "abc"] == ["left"] * 3)


def test_who_refutes_while_leaving_stays_left(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    c = world["c"]
    c.slow = True
    tell(world, "c", accusation(world, "a", "c"))
    leave(world, "c")
    world.release("c")
    tell(world, "c", accusation(world, "b", "c"))
    world.run(5)
    assert world.state("a", "c") == world.state("b", "c") == "left"
    assert c.number("incarnation") == c.mesh.incarnation == 2, "one refutation, before; none after"


def test_a_claim_no_higher_than_the_leave_does_not_undo_it(net: Any) -> None:
    world = formed(net, "a", "c")
    c = world["c"]
    known = world["a"].mesh.members[c.id].alive
    higher = [Alive(c.id, "c", known.host, known.port, known.incarnation + i, known.boot, known.session_public) for i in (1, 2)]
    tell(world, "a", claim_of(world, c.member.identity, "left", Left(c.id, known.incarnation + 1)))
    for claim, state in zip(higher, ("left", "alive"), strict=True):
        tell(world, "a", (claim_of(world, c.member.identity, "alive", claim)[0], c.member.certificate))
        assert world.state("a", "c") == state


def test_who_left_may_start_again(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    leave(world, "c")
    world.run(1)
    world.kill("c")
    world.start("c")
    assert world.run(5, world.all_know_all)


def test_a_restart_is_accepted_and_the_old_session_is_over(net: Any) -> None:
    world = formed(net, "a", "b")
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
    world = formed(net, "a", "b", "c")
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
    world = formed(net, "a", "b")
    a, before = world["a"], world["a"].mesh.incarnation
    forged = Alive(a.id, "a", "10.0.0.1", 7963, before + 7, 1, b"k" * 32)
    for by in (world["b"].member.identity, world.keys.foreign.identity):
        tell(world, "a", (claim_of(world, by, "alive", forged)[0], a.member.certificate))
    world.run(2)
    assert a.mesh.incarnation == before
    assert a.mesh.dropped["malformed alive claim"] == 2


# -- forgers ---------------------------------------------------------------------------------------------------------


def test_forged_claims_change_nothing(net: Any) -> None:
    world = formed(net, "a", "b", "c")
    a, b, c = world["a"], world["b"], world["c"]
    alive = a.mesh.members[c.id].alive
    higher = Alive(c.id, "c", "10.0.0.66", 1, alive.incarnation + 5, 9, b"k" * 32)
    certificate = c.member.certificate
    forger, foreign, revoked = b.member.identity, world.keys.foreign, world.keys.revoked
    named = claim_of(world, forger, "left", Left(c.id, 99))
    forged = bytearray(claim_of(world, c.member.identity, "left", Left(c.id, 99))[0])
    forged[-1] ^= 1
    own = revoked.identity
    for claim, reason in (
        ((claim_of(world, forger, "alive", higher)[0], certificate), "malformed alive claim"),
        ((seal(c.member.identity, "alive", b"x" * 32, pack(higher)), certificate), "bad signature"),
        ((claim_of(world, c.member.identity, "alive", higher)[0], b.member.certificate), "certificate of another node"),
        ((claim_of(world, c.member.identity, "alive", higher)[0], b""), "malformed envelope"),
        (named, "claim in another's name"),
        ((bytes(forged), b""), "bad signature"),
        (
            claim_of(world, forger, "suspect", Suspect(c.id, alive.incarnation, a.id, "silent")),
            None,
        ),
        (claim_of(world, foreign.identity, "suspect", Suspect(c.id, alive.incarnation, b.id, "silent")), "claim in another's name"),
        (claim_of(world, foreign.identity, "suspect", Suspect(c.id, alive.incarnation, foreign.identity.id, "silent")), None),
        (claim_of(world, forger, "dead", Left(c.id, 99)), "unknown claim"),
        ((claim_of(world, own, "alive", Alive(own.id, "revoked", "10.0.0.7", 1, 1, 1, b"k" * 32))[0], revoked.certificate), "revoked key"),
        (
            (
                claim_of(world, foreign.identity, "alive", Alive(foreign.identity.id, "foreign", "10.0.0.7", 1, 1, 1, b"k" * 32))[0],
                foreign.certificate,
            ),
            "bad signature",
        ),
        ((b"", b""), None),
        ((b"\xc1", b""), None),
    ):
        before, total = a.mesh.dropped[reason or ""], a.mesh.dropped.total()
        tell(world, "a", claim)
        assert reason is None or a.mesh.dropped[reason] == before + 1, reason
        assert reason is None or a.mesh.dropped.total() == total + 1
        assert world.state("a", "c") == "alive"
        assert a.mesh.members[c.id].alive == alive
        assert set(a.mesh.members) == {b.id, c.id}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("host", "evil.example"),
        ("host", ""),
        ("host", "224.0.0.1"),
        ("host", "0.0.0.0"),
        ("port", 0),
        ("port", 65536),
        ("incarnation", 2**63),
        ("incarnation", -1),
        ("boot", -1),
        ("session_public", b"short"),
        ("session_public", bytes(32)),
        ("name", "another"),
    ],
)
def test_a_members_own_claim_in_bad_form_is_refused(net: Any, field: str, value: object) -> None:
    world = net("a", "b")
    b = world["b"]
    fields = {"node": b.id, "name": "b", "host": "fd00::1", "port": 1, "incarnation": 9, "boot": 1, "session_public": b"k" * 32}
    tell(world, "a", (claim_of(world, b.member.identity, "alive", list((fields | {field: value}).values()))[0], b.member.certificate))
    assert not world["a"].mesh.members
    assert world["a"].mesh.dropped.total() == 1
    tell(world, "a", (claim_of(world, b.member.identity, "alive", list(fields.values()))[0], b.member.certificate))
    assert world.state("a", "b") == "alive"


def test_members_are_bounded(net: Any) -> None:
    world = net(*"abcde", limits=Limits(members=3))
    world.run(5)
    assert all(len(host.mesh.members) <= 3 for host in world.hosts.values())
    assert world["a"].mesh.dropped["too many members"] > 0


def test_a_liar_cannot_answer_for_a_dead_member(net: Any) -> None:
    world = formed(net, "a", "b", "c", "d")
    world.kill("d")
    liar, victim = world["c"], world["a"]

    def lie() -> None:
        for sequence in range(victim.mesh._membership._prober.sequence + 2):
            if victim.up and liar.mesh._sessions.knows(victim.id):
                liar.mesh._membership.send(victim.id, Ack(sequence, b"", ()))
        world.settle(liar)

    direct = victim.mesh._membership._prober.start(world["d"].id, victim.mesh.members[world["d"].id].alive.incarnation)
    lie()
    world.run(0.1)
    assert direct.sequence in victim.mesh._membership._prober.open, "it was not asked"


def test_relayed_probes_are_bounded(net: Any) -> None:
    world = formed(net, "a", "b", "c", limits=Limits(relayed_probes=8))
    a = world["a"]
    for sequence in range(50):
        a.mesh._membership.relay(world["b"].id, PingRequest(sequence, world["c"].id), world.instant())
    assert len(a.mesh._membership._prober.open) == 8
    a.mesh._membership.relay(world["b"].id, PingRequest(1, b"nobody" * 5), world.instant())
    a.mesh._membership.relay(world["b"].id, PingRequest(1, a.id), world.instant())
    assert len(a.mesh._membership._prober.open) == 8


def test_a_ping_is_answered_with_its_sequence(net: Any) -> None:
    world = formed(net, "a", "b")
    sent: list[object] = []
    world["a"].mesh._membership.send = lambda peer, message: sent.append(message)
    world["a"].mesh._membership.ping(world["b"].id, Ping(2**64 - 1, b"", ()), world.instant())
    assert [m.sequence for m in sent if isinstance(m, Ack)] == [2**64 - 1]


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
    world = formed(net, "a", "b", "c")
    world.run(20)
    sends = world.sends
    world.run(10)
    assert world.sends - sends <= 3 * 10 * 2 + 6, "a ping and an ack per node and second, and nothing else"
