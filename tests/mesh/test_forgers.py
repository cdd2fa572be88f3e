"""Claims and answers that no honest member would send: nothing changes, and each is counted under its reason."""

from typing import Any

import pytest

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Alive, Left, Suspect
from cloudisense.mesh.wire import Ack, Ping, PingRequest


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
            world.claim(forger, "suspect", Suspect(c.id, alive.incarnation, a.id)),
            None,
        ),
        (world.claim(foreign.identity, "suspect", Suspect(c.id, alive.incarnation, b.id)), "claim in another's name"),
        (world.claim(foreign.identity, "suspect", Suspect(c.id, alive.incarnation, foreign.identity.id)), None),
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


def test_a_liar_cannot_answer_for_a_dead_member(net: Any) -> None:
    world = net.formed("a", "b", "c", "d")
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
    world = net.formed("a", "b", "c", limits=Limits(relayed_probes=8))
    a = world["a"]
    for sequence in range(50):
        a.mesh._membership.relay(world["b"].id, PingRequest(sequence, world["c"].id), world.instant())
    assert len(a.mesh._membership._prober.open) == 8
    a.mesh._membership.relay(world["b"].id, PingRequest(1, b"nobody" * 5), world.instant())
    a.mesh._membership.relay(world["b"].id, PingRequest(1, a.id), world.instant())
    assert len(a.mesh._membership._prober.open) == 8


def test_a_ping_is_answered_with_its_sequence(net: Any) -> None:
    world = net.formed("a", "b")
    sent: list[object] = []
    world["a"].mesh._membership.send = lambda peer, message: sent.append(message)
    world["a"].mesh._membership.ping(world["b"].id, Ping(2**64 - 1, b"", ()), world.instant())
    assert [m.sequence for m in sent if isinstance(m, Ack)] == [2**64 - 1]
