"""Who is there: several real Mesh objects, one network, virtual time."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Alive, Left, Suspect

DEATH_S = 60


# -- joining ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_all_know_all_soon_after_they_started_with_one_seed(net: Any, size: int) -> None:
    world = net.formed(*"abcde"[:size])
    assert all(world.state(at, of) == "alive" for at in world.hosts for of in world.hosts if at != of)
    world.run(20)
    assert all(world.changes(at, of) == ["alive"] for at in world.hosts for of in world.hosts if at != of)
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
    world.run(Limits().soon_rows_ms / 1000)
    [row] = world["a"].rows("members")
    assert (row["node"], row["state"]) == (world["b"].id, "alive")
    assert row["claim"] == world["b"].mesh._membership.claim


def test_claims_larger_than_a_datagram_in_sum_travel_in_parts(net: Any) -> None:
    world = net.formed(*(f"n{i}" for i in range(8)), limits=Limits(bulk_bytes=6000))
    assert world.run(10, lambda: world.all_know_all() and world.same_feeds())
    assert not any(host.mesh.dropped["message too large to send"] for host in world.hosts.values())


# -- leaving and coming back -----------------------------------------------------------------------------------------


def test_who_left_stays_left_for_all_and_for_those_who_come_later(net: Any) -> None:
    world = net.formed("a", "b", "c")
    world.leave("c")
    world.run(0.3)
    assert world.state("a", "c") == world.state("b", "c") == "left"
    world.kill("c")
    world.run(20)  # nobody talks of it any more
    world.add("d")
    world.kill("b")
    world.start("b")
    world.run(DEATH_S)
    assert [world.state(name, "c") for name in "abd"] == ["left"] * 3
    assert world.changes("a", "c") == ["alive", "left"]
    bulk = sum(len(host.bulk) for host in world.hosts.values())
    world.run(30)
    assert sum(len(host.bulk) for host in world.hosts.values()) == bulk, "and all is quiet: no digest differs"


def test_a_leave_that_reached_only_one_spreads(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
    a = world["a"].address
    world.lose = lambda source, target: source.name == "d" and target != a
    world.leave("d")
    world.kill("d")
    assert world.run(5, lambda: [world.state(name, "d") for name in "abc"] == ["left"] * 3)


def test_who_refutes_while_leaving_stays_left(net: Any) -> None:
    world = net.formed("a", "b", "c")
    c = world["c"]
    c.slow = True
    world.tell("c", world.accusation("a", "c"))
    world.leave("c")
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
    world.leave("c")
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


# -- forgers ---------------------------------------------------------------------------------------------------------


def test_forged_claims_change_nothing(net: Any) -> None:
    world = net.formed("a", "b", "c")
    a, b, c = world["a"], world["b"], world["c"]
    alive = a.mesh.members[c.id].alive
    higher = Alive(c.id, "c", "10.0.0.66", 1, alive.incarnation + 5, 9, b"k" * 32)
    certificate = c.member.certificate
    forger, foreign, revoked = b.member.identity, world.keys.foreign, world.keys.revoked
    named = world.claim(forger, "left", Left(c.id, 99))
    forged = bytearray(world.claim(c.member.identity, "left", Left(c.id, 99))[0])
    forged[-1] ^= 1
    own = revoked.identity
    for claim, reason in (
        ((world.claim(forger, "alive", higher)[0], certificate), "malformed alive claim"),
        ((seal(c.member.identity, "alive", b"x" * 32, pack(higher)), certificate), "bad signature"),
        ((world.claim(c.member.identity, "alive", higher)[0], b.member.certificate), "certificate of another node"),
        ((world.claim(c.member.identity, "alive", higher)[0], b""), "malformed envelope"),
        (named, "claim in another's name"),
        ((bytes(forged), b""), "bad signature"),
        (
            world.claim(forger, "suspect", Suspect(c.id, alive.incarnation, a.id, "silent")),
            None,
        ),
        (world.claim(foreign.identity, "suspect", Suspect(c.id, alive.incarnation, b.id, "silent")), "claim in another's name"),
        (world.claim(foreign.identity, "suspect", Suspect(c.id, alive.incarnation, foreign.identity.id, "silent")), None),
        (world.claim(forger, "dead", Left(c.id, 99)), "unknown claim"),
        ((world.claim(own, "alive", Alive(own.id, "revoked", "10.0.0.7", 1, 1, 1, b"k" * 32))[0], revoked.certificate), "revoked key"),
        (
            (
                world.claim(foreign.identity, "alive", Alive(foreign.identity.id, "foreign", "10.0.0.7", 1, 1, 1, b"k" * 32))[0],
                foreign.certificate,
            ),
            "bad signature",
        ),
        ((b"", b""), None),
        ((b"\xc1", b""), None),
    ):
        before, total = a.mesh.dropped[reason or ""], a.mesh.dropped.total()
        world.tell("a", claim)
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
    world.tell("a", (world.claim(b.member.identity, "alive", list((fields | {field: value}).values()))[0], b.member.certificate))
    assert not world["a"].mesh.members
    assert world["a"].mesh.dropped.total() == 1
    world.tell("a", (world.claim(b.member.identity, "alive", list(fields.values()))[0], b.member.certificate))
    assert world.state("a", "b") == "alive"


def test_members_are_bounded(net: Any) -> None:
    world = net(*"abcde", limits=Limits(members=3))
    world.run(5)
    assert all(len(host.mesh.members) <= 3 for host in world.hosts.values())
    assert world["a"].mesh.dropped["too many members"] > 0


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
    periods = 10_000 // Limits().probe_interval_ms + 1
    assert world.sends - sends <= 3 * periods * 2, "a ping and an ack per node and period, and nothing else"
    assert all("gossip" not in host.mesh._out.timers for host in world.hosts.values()), "and no timer ticks for nothing"
    world.tell("a", world.accusation("b", "c"))
    assert "gossip" in world["a"].mesh._out.timers, "until there is news"
