"""A member in good standing lies about others, with keys in bad form, under a roster that no longer holds."""

import base64
from typing import Any

import msgspec
import pytest

from cloudisense.keys.certificate import Certificate, issue
from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import Envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Roster, sign_roster
from cloudisense.keys.session import _LOW_ORDER_U
from cloudisense.keys.succession import upholding
from cloudisense.keys.testing import NOT_AFTER_MS, NOT_BEFORE_MS
from cloudisense.mesh.hello import PREFIX, Hello
from cloudisense.mesh.member import Alive, Left, Restarting, Suspect
from cloudisense.mesh.trust import roster_hash
from cloudisense.mesh.wire import Ack, Claims, Direct, Nack, Push, PushPull, Rosters, encode

Arena = Any
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
BAD_KEYS = [(n).to_bytes(32, "little") for n in (0, 1, P - 1, P, P + 1, P + 3)]
"""Small order and non-canonical, as an Ed25519 key."""


@pytest.fixture
def four(arena) -> Arena:
    return arena("anna", "bert", "carl", "mallory")


def claim(four: Arena, signer: str, kind: str, body: object) -> bytes:
    return seal(four[signer].member.identity, kind, four.keys.mesh_id, pack(body))


def tell(four: Arena, *claims: tuple[bytes, bytes]) -> dict[str, Any]:
    """Mallory brings them to anna; what that changed of what anna holds of others and of herself."""
    before = four.snapshot("anna")
    four.say("mallory", "anna", Claims(claims))
    after = four.snapshot("anna")
    del before["windows"], after["windows"]  # the message itself was authentic
    return {key: after[key] for key in after if after[key] != before[key]}


def alive_of(four: Arena, who: str, /, **changes: Any) -> Alive:
    return msgspec.structs.replace(four[who].mesh._membership.check_alive(four[who].mesh._membership.claim), **changes)


def test_what_is_true_is_taken(four: Arena) -> None:
    alive = alive_of(four, "mallory", incarnation=9)
    assert "members" in tell(four, (claim(four, "mallory", "alive", alive), four["mallory"].member.certificate))


@pytest.mark.parametrize("kind", ["left", "restarting", "alive"])
def test_anothers_leave_restart_or_incarnation(four: Arena, kind: str) -> None:
    """Control: ``_check_signer`` and ``check_alive`` (mesh/membership.py)."""
    bert = four["bert"]
    bodies = {"left": Left(bert.id, 5), "restarting": Restarting(bert.id, 5), "alive": alive_of(four, "bert", incarnation=50)}
    certificate = bert.member.certificate if kind == "alive" else b""
    assert tell(four, (claim(four, "mallory", kind, bodies[kind]), certificate)) == {}
    assert four["anna"].mesh.dropped.total() > 0


def test_an_accusation_in_anothers_name(four: Arena) -> None:
    assert tell(four, (claim(four, "mallory", "suspect", Suspect(four["bert"].id, 1, four["carl"].id, "silent")), b"")) == {}


def test_a_signature_of_another_kind_is_no_leave(four: Arena) -> None:
    """Control: the type is under the signature. Bert did sign these bytes, as something else."""
    data = claim(four, "bert", "hello", Left(four["bert"].id, 5))
    fields = msgspec.msgpack.decode(data)
    assert tell(four, (pack(["left", *fields[1:]]), b"")) == {}


@pytest.mark.parametrize("evidence", ["silent", "mute", "refused"])
def test_one_accuser_kills_nobody(four: Arena, evidence: Any) -> None:
    """Control: ``accusers_needed`` (mesh/suspicion.py). Bert is well, refutes, and is never dead to anybody."""
    for _ in range(30):
        bert = four["anna"].mesh.members[four["bert"].id]
        four.say(
            "mallory",
            "anna",
            Claims(((claim(four, "mallory", "suspect", Suspect(bert.node, bert.alive.incarnation, four["mallory"].id, evidence)), b""),)),
        )
        four.run(0.5)
        assert bert.present
    four.run(3)
    assert four["anna"].mesh.members[four["bert"].id].state == "alive"


def test_an_accusation_of_a_made_up_height(four: Arena) -> None:
    """Control: ``accusation_counts`` wants exactly the incarnation that is claimed (mesh/member.py)."""
    assert tell(four, (claim(four, "mallory", "suspect", Suspect(four["bert"].id, 2**40, four["mallory"].id, "silent")), b"")) == {}


def test_accusing_us_without_end_costs_a_few_refutations(four: Arena) -> None:
    """Control: one refutation per accuser and probe time-out (``_take_suspect``); and never above our own count by more."""
    anna = four["anna"]
    start, sent = anna.mesh.incarnation, anna.sent
    for i in range(1000):
        four.say(
            "mallory",
            "anna",
            Claims(((claim(four, "mallory", "suspect", Suspect(anna.id, 2**50 + i, four["mallory"].id, "silent")), b""),)),
        )
        four.run(0.001)
    assert anna.mesh.incarnation - start <= 5
    assert anna.sent - sent < 100


def test_a_member_that_is_nobodys_relay_answers_for_no_one(four: Arena) -> None:
    """Control: ``Prober.answered`` wants a relay that was asked. Else mallory keeps the dead alive, or us in doubt of ourselves."""
    prober = four["anna"].mesh._detector._prober
    probe = prober.start(four["bert"].id, 1)
    probe.asked = (four["carl"].id,)
    four.say("mallory", "anna", Ack(probe.sequence, bytes(8), ()), Nack(probe.sequence))
    assert prober.open[probe.sequence] is probe and not probe.nacks
    four.say("carl", "anna", Nack(probe.sequence), Nack(probe.sequence))
    assert probe.nacks == {four["carl"].id}


@pytest.mark.parametrize("u", [*sorted(_LOW_ORDER_U), P, P + 1, P + 9])
def test_session_keys_in_bad_form(four: Arena, u: int) -> None:
    """Control: ``checked_session_key`` (keys/session.py): with a low-order key anybody could derive the pair's keys."""
    alive = alive_of(four, "mallory", incarnation=9, session_public=u.to_bytes(32, "little"))
    assert tell(four, (claim(four, "mallory", "alive", alive), four["mallory"].member.certificate)) == {}
    assert four["anna"].mesh.dropped["bad session key"] == 1


@pytest.mark.parametrize("mesh", ["ours", "another"])
def test_a_certificate_of_another_mesh(four: Arena, mesh: str) -> None:
    """Control: the mesh id is under every signature. Even the same issuer's word for one mesh is none for the next."""
    stranger = Identity(b"s" * 32)
    mesh_id = four.keys.mesh_id if mesh == "ours" else b"m" * 32
    content = Certificate(stranger.id, "stranger", ("member",), (), NOT_BEFORE_MS, NOT_AFTER_MS, four.keys.issuer.id)
    alive = Alive(stranger.id, "stranger", "10.0.0.9", 7963, 1, 1, four["mallory"].mesh._sessions.key.public)
    claim = (seal(stranger, "alive", four.keys.mesh_id, pack(alive)), issue(four.keys.issuer, mesh_id, content))
    assert ("members" in tell(four, claim)) == (mesh == "ours")


@pytest.mark.parametrize("key", BAD_KEYS)
def test_identities_in_bad_form(four: Arena, key: bytes) -> None:
    """Control: ``checked_public_key`` (keys/identity.py). Under a small-order key one signature is good for every message."""
    signature = (1).to_bytes(32, "little") + bytes(32)

    def signed(kind: str, body: object) -> bytes:
        return pack(Envelope(kind, pack(body), key, signature))

    alive = Alive(key, "ghost", "10.0.0.9", 7963, 1, 1, four["mallory"].mesh._sessions.key.public)
    certificate = issue(
        four.keys.issuer, four.keys.mesh_id, Certificate(key, "ghost", ("member",), (), NOT_BEFORE_MS, NOT_AFTER_MS, four.keys.issuer.id)
    )
    assert tell(four, (signed("alive", alive), certificate), (signed("suspect", Suspect(four["bert"].id, 1, key, "silent")), b"")) == {}
    before = four.snapshot("anna")
    token = four["anna"].mesh._greeter.token(("10.0.0.9", 7963))
    hello = PREFIX + signed("hello", Hello(signed("alive", alive), certificate, four["anna"].id, b"", token))
    four.datagram(four["anna"], hello, ("10.0.0.9", 7963))
    assert four.snapshot("anna") == before
    four.say("mallory", "anna", Push((signed("entry", [1, 0, bytes(32), 1, "alert", b""]),), True))
    assert four.snapshot("anna")["feeds"] == before["feeds"]


def test_a_certificate_for_a_key_in_bad_form_is_refused_by_itself(four: Arena) -> None:
    from cloudisense.keys.certificate import check_certificate

    for key in BAD_KEYS:
        data = issue(
            four.keys.issuer,
            four.keys.mesh_id,
            Certificate(key, "ghost", ("member",), (), NOT_BEFORE_MS, NOT_AFTER_MS, four.keys.issuer.id),
        )
        with pytest.raises(RemoteProtocolError, match="public key"):
            check_certificate(data, four.keys.roster, four.keys.mesh_id, NOT_BEFORE_MS, True)


@pytest.mark.parametrize("kind", ["alive", "suspect", "left", "entry", "certificate", "hello"])
def test_signatures_in_another_form(four: Arena, kind: str) -> None:
    """Control: S < L in ``verify`` (keys/identity.py). Adding L makes a second signature that some libraries take."""
    from cloudisense.keys.envelope import open_envelope

    data = claim(four, "mallory", kind, [1])
    fields = msgspec.msgpack.decode(data)
    s = int.from_bytes(fields[3][32:], "little") + L
    fields[3] = fields[3][:32] + s.to_bytes(32, "little")
    with pytest.raises(RemoteProtocolError, match="bad signature"):
        open_envelope(pack(fields), four.keys.mesh_id, kind)


@pytest.mark.parametrize("host", ["", "example", "a.b.c", "300.1.1.1", "10.0.0.1\0", "x" * 255, "224.0.0.1", "0.0.0.0"])
def test_an_address_that_is_none(four: Arena, host: str) -> None:
    """Control: ``_is_host``. A name would have everyone ask its server; some texts make sockets raise what nobody expects."""
    alive = alive_of(four, "mallory", incarnation=9, host=host)
    assert tell(four, (claim(four, "mallory", "alive", alive), four["mallory"].member.certificate)) == {}


# -- the roster --------------------------------------------------------------------------------------------------------


def next_roster(four: Arena, number: int, *revoked: str, signer: Any = None) -> tuple[bytes, ...]:
    r = four.keys.roster
    keys = (*r.revoked, *(four[name].id for name in revoked))
    roster = Roster(number, r.epoch, r.roots, 1, r.voters, r.issuers, r.operators, keys, r.lease_ms, r.rho_ppm)
    return (*four.keys.chain, sign_roster(roster, four.keys.mesh_id, signer or four.keys.root))


def revoke(four: Arena, name: str) -> tuple[bytes, ...]:
    chain = next_roster(four, 3, name)
    four["anna"].mesh.take_rosters(chain, four.now())
    four.settle(four["anna"])
    four.run(2)
    assert all(node.mesh.roster.number == 3 for node in four.nodes.values() if node.name != name)
    return chain


def test_a_revoked_member_is_heard_no_more(four: Arena) -> None:
    """Controls: ``Membership.enforce``, and the revocation checks in ``_message`` and ``check_certificate``."""
    from cloudisense.mesh.wire import Ping

    entry = four["mallory"].mesh.append("alert", b"x", four.now())
    sealed = four["mallory"].mesh._sessions.seal(four["anna"].id, b"\x93\x01\x01\xc4\x00")
    revoke(four, "mallory")
    assert not four["anna"].mesh._sessions.knows(four["mallory"].id), "the session is cut, not only refused"
    before = four.snapshot("anna")
    four.datagram(four["anna"], sealed, four["mallory"].address)
    four.say("mallory", "anna", Ping(1, bytes(8), ()), Push((entry.data,), True))
    four.say("bert", "anna", Push((entry.data,), True))  # nor through others
    sent = four["anna"].sent
    four["anna"].mesh.handle_bulk(four["mallory"].id, encode(Direct(b"do it")), four.now())
    alive = four["mallory"].mesh._membership.claim
    token = four["anna"].mesh._greeter.token(four["mallory"].address)
    hello = Hello(alive, four["mallory"].member.certificate, four["anna"].id, bytes(16), token)
    four.datagram(four["anna"], PREFIX + claim(four, "mallory", "hello", hello), four["mallory"].address)
    assert four["anna"].directs == []
    assert four["anna"].sent == sent, "and is not answered"
    after = four.snapshot("anna")
    del before["windows"], after["windows"]
    assert after == before


def test_a_revoked_member_does_not_keep_the_others_from_agreeing(four: Arena) -> None:
    """Control: ``Delivery.digest`` leaves out what is of a revoked key. Bert restarts and holds nothing of her any more."""
    four["mallory"].mesh.append("alert", b"x", four.now())
    four.settle(four["mallory"])
    four.run(1)
    revoke(four, "mallory")
    four.start("bert")
    four.run(5)
    assert len({four[name].mesh._delivery.digest() for name in ("anna", "bert", "carl")}) == 1
    sent = four["anna"].sent
    four.run(10)
    assert four["anna"].sent - sent < 60, "probes and their answers, and no exchange of everything every second"


def test_a_revoked_member_with_a_new_certificate(four: Arena) -> None:
    """Control: revocation is by key. Another form of the certificate, another name, another validity: all the same key."""
    revoke(four, "mallory")
    before = four.snapshot("anna")
    for roles, name in ((("member",), "mallory"), (("member", "actor"), "fresh")):
        certificate = issue(
            four.keys.issuer,
            four.keys.mesh_id,
            Certificate(four["mallory"].id, name, roles, (("a", "b"),), NOT_BEFORE_MS + 1, NOT_AFTER_MS, four.keys.issuer.id),
        )
        alive = claim(four, "mallory", "alive", alive_of(four, "mallory", incarnation=99, name=name))
        four.say("bert", "anna", Claims(((alive, certificate),)))
        token = four["anna"].mesh._greeter.token(four["mallory"].address)
        hello = PREFIX + claim(four, "mallory", "hello", Hello(alive, certificate, four["anna"].id, b"", token))
        four.datagram(four["anna"], hello, four["mallory"].address)
    after = four.snapshot("anna")
    del before["windows"], after["windows"]
    assert after == before
    assert four["anna"].mesh.dropped["revoked key"] > 0


def test_a_revoked_members_accusations_count_no_more(four: Arena) -> None:
    """Control: ``enforce`` forgets its evidence; ``_take_suspect`` hears no new one, about us neither."""
    bert = four["anna"].mesh.members[four["bert"].id]
    accusation = (claim(four, "mallory", "suspect", Suspect(bert.node, bert.alive.incarnation, four["mallory"].id, "silent")), b"")
    four.cut = lambda source, target: True
    four.say("mallory", "anna", Claims((accusation,)))
    assert four["mallory"].id in bert.evidence
    four["anna"].mesh.take_rosters(next_roster(four, 3, "mallory"), four.now())
    assert four["mallory"].id not in bert.evidence
    incarnation = four["anna"].mesh.incarnation
    about_us = claim(four, "mallory", "suspect", Suspect(four["anna"].id, incarnation, four["mallory"].id, "silent"))
    four.say("bert", "anna", Claims((accusation, (about_us, b""))))
    assert four["mallory"].id not in bert.evidence
    assert four["anna"].mesh.incarnation == incarnation


def test_an_old_roster_offered_again(four: Arena) -> None:
    """Control: ``Trust.offer`` (mesh/trust.py)."""
    chain = revoke(four, "mallory")
    for old in (four.keys.chain, four.keys.chain[:1]):
        four.say("bert", "anna", Rosters(old))
        assert four["anna"].mesh.roster_chain == chain
        assert four["anna"].mesh.roster.is_revoked(four["mallory"].id)


@pytest.mark.parametrize("what", ["rival", "by a member", "lower number", "of another mesh", "empty", "junk at the end"])
def test_a_roster_that_must_not_hold(four: Arena, arena, what: str) -> None:
    chain = revoke(four, "carl")
    root = four.keys.root
    chains = {
        "rival": next_roster(four, 3, "bert"),
        "by a member": (*chain, next_roster(four, 4, "bert", signer=four["mallory"].member.identity)[-1]),
        "lower number": (*chain, next_roster(four, 2, "bert", signer=root)[-1]),
        "of another mesh": (*chain, *arena("x", seed=2).keys.chain[1:]),
        "empty": (),
        "junk at the end": (*chain, base64.b64encode(b"x" * 100)),
    }
    four.say("mallory", "anna", Rosters(chains[what]))
    assert four["anna"].mesh.roster_chain == chain
    assert not four["anna"].mesh.roster.is_revoked(four["bert"].id)
    assert four["anna"].mesh.dropped["rival roster"] == (what == "rival"), "an alarm, not a choice"


def test_two_rosters_beside_each_other_are_an_alarm_on_both_sides_and_then_settled(four: Arena) -> None:
    """Control: what a PushPull says of the newest roster; the shorter side answers a rival with its own."""
    four.cut = lambda source, target: four["bert"].address in (source, target)
    four.run(1)
    ours, theirs = next_roster(four, 3, "carl"), next_roster(four, 3, "mallory")
    for name, chain in (("anna", ours), ("bert", theirs)):
        four[name].mesh.take_rosters(chain, four.now())
        four.settle(four[name])
    four.run(20)
    four.cut = lambda source, target: False
    four.run(40)
    anna, bert = four["anna"].mesh, four["bert"].mesh
    assert anna.rival_rosters and bert.rival_rosters
    assert anna.roster_chain == ours and bert.roster_chain == theirs
    roster = upholding(anna.roster, bert.roster, roster_hash(theirs[2]))
    anna.take_rosters((*ours, sign_roster(roster, four.keys.mesh_id, four.keys.root)), four.now())
    four.settle(four["anna"])
    four.run(5)
    assert bert.roster.number == anna.roster.number == 4 and not (anna.rival_rosters or bert.rival_rosters)
    assert all(bert.roster.is_revoked(four[name].id) for name in ("carl", "mallory")), "whom either side revoked"


def test_one_that_brags_of_a_newer_roster_lowers_nobody(four: Arena) -> None:
    """Control: ``Trust.behind`` wants two. And who is really behind takes nobody's help."""
    four.say("mallory", "anna", PushPull((), (), (), 99, False))
    assert not four["anna"].mesh.behind
    four.say("carl", "anna", PushPull((), (), (), 99, False))
    assert four["anna"].mesh.behind


def test_the_next_roster_is_taken(four: Arena) -> None:
    chain = revoke(four, "carl")
    following = (*chain, next_roster(four, 4, "carl", "bert")[-1])
    four.say("mallory", "anna", Rosters(following))
    assert four["anna"].mesh.roster_chain == following
