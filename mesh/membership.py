"""Who is there: the member table, the claims that change it, and what follows from accusations (DESIGN section 3.2)."""

import hashlib
from collections.abc import Callable

from cloudisense.keys.certificate import check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError, invariant
from cloudisense.mesh.context import Context
from cloudisense.mesh.dissemination import Piggyback, retransmit_limit
from cloudisense.mesh.effects import Address, Put
from cloudisense.mesh.events import MemberChanged
from cloudisense.mesh.flap import Flaps
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.member import (
    LOST,
    PROBED,
    Alive,
    Left,
    Member,
    Restarting,
    State,
    Suspect,
    accusation_counts,
    alive_wins,
    departure_counts,
)
from cloudisense.mesh.rows import MemberRows
from cloudisense.mesh.silence import verdict
from cloudisense.mesh.suspicion import accusers_needed, suspicion_ms
from cloudisense.mesh.wire import Claims, Message, SignedClaim

RETURN_GREETINGS = 64
PARTITION_MS = 30_000
"""Deaths this young belong to the same cut when we find ourselves in a minority."""


class Membership:
    """The member table. ``confirm`` is asked to probe a member at once, because another accuses it."""

    def __init__(self, context: Context) -> None:
        self.members: dict[bytes, Member] = {}
        self.incarnation = context.stored.incarnation
        self.confirm: Callable[[bytes, Instant], None] = lambda node, now: None
        self.rows = MemberRows(context.out, context.limits)
        self.known_sum = 0
        """Sum over members of a hash of what each claims; part of the digest."""
        self._context = context
        self._out = context.out
        self._limits = context.limits
        self._piggyback = Piggyback(context.limits.piggyback)
        self._flaps = Flaps(context.limits)
        self._summed: dict[bytes, int] = {}
        self._leaving = False
        self.claim = self._own_claim()

    def start(self, now: Instant) -> None:
        """Restore known members, greet them and the seeds."""
        self.take_claims(self._context.stored.members, now)
        for address in self._context.stored.seeds:
            self.greet(address)
        for member in self.all():
            self.greet(member.address, member.node)
        self._spread(self._context.id, self._context.id, (self.claim, self._context.certificate))
        self._out.after("gossip", now, self._context.rng.randrange(self._limits.gossip_interval_ms))

    # -- who is there --------------------------------------------------------------------------------------------------

    def all(self) -> list[Member]:
        """Every other node ever heard of, sorted by id."""
        return [self.members[node] for node in sorted(self.members)]

    def present(self) -> list[bytes]:
        """Members that are counted on, sorted, without ourselves."""
        return [member.node for member in self.all() if member.present]

    def probed(self) -> list[bytes]:
        """Members that are worth a probe, sorted."""
        return [member.node for member in self.all() if member.state in PROBED]

    def lost(self) -> list[Member]:
        """Members that are only greeted, sorted."""
        return [member for member in self.all() if member.state in LOST]

    def unsuspected(self) -> int:
        """How many could accuse: ourselves and every member that nobody accuses."""
        return 1 + sum(m.state == "alive" for m in self.members.values())

    def minority(self) -> bool:
        """Do we see fewer than half of all that have not left? Then it is we who are cut off."""
        total = 1 + sum(m.state != "left" for m in self.members.values())
        return self.unsuspected() * 2 < total

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, peer: bytes, message: Message) -> None:
        """Send to a known member."""
        self._out.send(peer, self.members[peer].address, message)

    def greet(self, address: Address, to: bytes = b"") -> None:
        """Say hello to an address; whoever answers with our token becomes a member."""
        if address != self._context.stored.address:
            hello = self._context.greeter.hello(self.claim, self._context.certificate, address, to, b"", ask=True)
            self._out.send_clear(address, hello)

    def tell_all(self, claim: SignedClaim, *besides: bytes) -> None:
        """First-hand news goes out at once: to everyone in a small mesh, to a few in a large one; the piggyback does the rest."""
        present = self.present()
        told = present if len(present) <= self._limits.small else self._context.choose(present, 2 * self._limits.gossip_fanout)
        for node in sorted({*told, *besides} & self.members.keys()):
            self.send(node, Claims((claim,)))

    def leave(self) -> None:
        """Tell everyone that we go on purpose."""
        self._leaving = True
        self.tell_all((self._seal("left", Left(self._context.id, self.incarnation)), b""))

    def restart(self) -> None:
        """Tell everyone that only our agent stops, and only for a moment."""
        self._leaving = True
        self.tell_all((self._seal("restarting", Restarting(self._context.id, self.incarnation)), b""))

    def gossip(self, now: Instant) -> None:
        """Between probes, spread what is new to a few members."""
        if not len(self._piggyback):
            return
        self._out.after("gossip", now, self._limits.gossip_interval_ms)
        for node in self._context.choose(self.present(), self._limits.gossip_fanout):
            if claims := self.ride_along():
                self.send(node, Claims(claims))

    def ride_along(self) -> tuple[SignedClaim, ...]:
        """Claims for the next message, as many as fit."""
        return self._piggyback.take(self._limits.datagram_bytes - 64, retransmit_limit(self._limits, len(self.members) + 1))

    def _spread(self, subject: bytes, author: bytes, claim: SignedClaim) -> None:
        self._piggyback.add(subject, author, claim)
        if "gossip" not in self._out.timers:
            self._out.wake_soon("gossip", self._limits.gossip_interval_ms)

    # -- claims --------------------------------------------------------------------------------------------------------

    def take_claims(self, claims: tuple[SignedClaim, ...], now: Instant) -> None:
        """Apply claims, whoever brought them; a bad one costs only itself."""
        for claim in claims:
            try:
                self.take_claim(claim, now)
            except RemoteProtocolError as error:
                self._out.dropped[error.reason] += 1

    def take_claim(self, claim: SignedClaim, now: Instant) -> None:
        """Apply one signed claim. Raises ``RemoteProtocolError``."""
        # Most claims are heard many times: look at the content before paying for the signature.
        kind, body, _, _ = unpack(claim[0], tuple[str, bytes, bytes, bytes], self._limits.claim_bytes)
        match kind:
            case "alive":
                self._take_alive(unpack(body, Alive, self._limits.claim_bytes), claim, now)
            case "suspect":
                self._take_suspect(unpack(body, Suspect, self._limits.claim_bytes), claim[0], now)
            case "left":
                self._take_departure(unpack(body, Left, self._limits.claim_bytes), kind, claim[0], now)
            case "restarting":
                self._take_departure(unpack(body, Restarting, self._limits.claim_bytes), kind, claim[0], now)
            case _:
                raise RemoteProtocolError("unknown claim")

    def check_alive(self, claim: bytes) -> Alive:
        """The content of an alive claim, its signature and form checked. Raises ``RemoteProtocolError``."""
        envelope = open_envelope(claim, self._context.mesh_id, "alive", self._limits.claim_bytes)
        alive = unpack(envelope.body, Alive, self._limits.claim_bytes)
        if envelope.signer != alive.node or len(alive.session_public) != 32 or not 0 < alive.port < 65536 or len(alive.host) > 255:
            raise RemoteProtocolError("malformed alive claim")
        return alive

    def _take_alive(self, heard: Alive, claim: SignedClaim, now: Instant) -> None:
        known = self.members.get(heard.node)
        if heard.node == self._context.id or not alive_wins(known, heard):
            return
        alive = self.check_alive(claim[0])
        trust = self._context.trust
        certificate = check_certificate(claim[1], trust.roster, trust.mesh_id, now.wall_ms, now.wall_trusted)
        if certificate.node != alive.node or certificate.name != alive.name:
            raise RemoteProtocolError("certificate of another node")
        if known is None and len(self.members) >= self._limits.members:
            raise RemoteProtocolError("too many members")
        self._context.sessions.learn(alive.node, alive.session_public, now)
        before = known.state if known is not None else None
        if known is not None and before == "suspect" and self._overdue(known, now):
            self._flaps.held(alive.node, now)
        since_ms = known.since_ms if known is not None and before == "alive" else now.wall_ms
        member = Member(alive.node, alive, claim[0], claim[1], certificate, "alive", since_ms)
        self.members[alive.node] = member
        self._out.timers.cancel(("suspicion", alive.node))
        self._piggyback.drop(alive.node)
        self._spread(alive.node, alive.node, claim)
        self._changed(member, before in LOST if before else False)
        if before not in ("alive", "suspect"):
            self._out.tell(MemberChanged(alive.node, "alive"))

    def _take_suspect(self, heard: Suspect, claim: bytes, now: Instant) -> None:
        accuser = self.members.get(heard.accuser)
        if accuser is None:
            return
        if heard.accused == self._context.id:
            # Whoever says so, present or not: it may be us who were cut off.
            if heard.incarnation >= self.incarnation and not self._leaving:
                self._check_signer(claim, "suspect", heard.accuser)
                self._refute(heard.accuser)
            return
        known = self.members.get(heard.accused)
        if known is not None and accuser.present and accusation_counts(known, heard):
            self._check_signer(claim, "suspect", heard.accuser)
            self._accused(known, heard.accuser, heard.evidence, claim, now)
            if self._is_confirmer(known.node):
                self.confirm(known.node, now)

    def _take_departure(self, heard: Left | Restarting, kind: str, claim: bytes, now: Instant) -> None:
        known = self.members.get(heard.node)
        if known is None or not departure_counts(known, heard) or (kind == "restarting" and known.state == "agent_down"):
            return
        self._check_signer(claim, kind, heard.node)
        self._spread(heard.node, heard.node, (claim, b""))
        known.departure = claim
        self.set_state(known, "left" if kind == "left" else "agent_down", now)

    def _check_signer(self, claim: bytes, kind: str, signer: bytes) -> None:
        if open_envelope(claim, self._context.mesh_id, kind, self._limits.claim_bytes).signer != signer:
            raise RemoteProtocolError("claim in another's name")

    def _refute(self, accuser: bytes) -> None:
        """We are alive: claim one incarnation more, durably first, so that no later boot can claim a lower one.

        One more than our own, not than the accusation's: a forged height would exhaust the counter.
        """
        self.incarnation += 1
        incarnation = self.incarnation
        row = Put("meta", {"key": "incarnation", "value": incarnation.to_bytes(8, "big")})
        self._out.persist((row,), lambda _: self._announce(incarnation, accuser))

    def _announce(self, incarnation: int, accuser: bytes) -> None:
        if incarnation == self.incarnation:
            self.claim = self._own_claim()
            claim = (self.claim, self._context.certificate)
            self._spread(self._context.id, self._context.id, claim)
            self.tell_all(claim, accuser)

    def _own_claim(self) -> bytes:
        invariant(self.incarnation > 0, "an incarnation was made durable before the first claim")
        stored = self._context.stored
        host, port = stored.address
        public = self._context.session_key.public
        return self._seal("alive", Alive(self._context.id, stored.name, host, port, self.incarnation, stored.boot, public))

    def _seal(self, kind: str, body: object) -> bytes:
        return seal(self._context.identity, kind, self._context.mesh_id, pack(body))

    # -- suspicion -----------------------------------------------------------------------------------------------------

    def accuse(self, member: Member, evidence: str, now: Instant) -> None:
        """Our own probe of ``member`` met ``evidence``: say so to everyone, the accused first (Lifeguard section IV-C)."""
        claim = self._accusation(member, evidence)
        if not accusation_counts(member, unpack_suspect(claim, self._limits.claim_bytes)):
            return
        self.send(member.node, Claims(((claim, b""),)))
        self._accused(member, self._context.id, evidence, claim, now)
        self.tell_all((claim, b""))

    def _accusation(self, member: Member, evidence: str) -> bytes:
        suspect = [member.node, member.alive.incarnation, self._context.id, evidence]
        return self._seal("suspect", suspect)

    def _accused(self, member: Member, accuser: bytes, evidence: str, claim: bytes, now: Instant) -> None:
        settled = member.state in ("agent_down", "stalled")
        if settled and evidence not in member.evidence.values():
            # The silence has become another one; what was seen before says nothing of it.
            member.evidence = {}
            member.suspected_ns = now.boot_ns
        member.evidence[accuser] = evidence
        self._spread(member.node, accuser, (claim, b""))
        if member.state == "alive":
            member.suspected_ns = now.boot_ns
            self.set_state(member, "suspect", now)
        kind = verdict(member.evidence, accusers_needed(self.unsuspected()))
        if kind == "agent_down":
            if member.state != "agent_down":
                self.set_state(member, "agent_down", now)
        elif not (settled and kind == member.state):
            self._wait_for(member)

    def _wait_for(self, member: Member) -> None:
        self._out.timers.set(("suspicion", member.node), member.suspected_ns + self._wait_ns(member))

    def _wait_ns(self, member: Member) -> int:
        return suspicion_ms(self._limits, len(self.present()) + 1, len(member.evidence)) * NS_PER_MS

    def _overdue(self, member: Member, now: Instant) -> bool:
        return now.boot_ns >= member.suspected_ns + self._wait_ns(member)

    def suspicion_over(self, node: bytes, now: Instant) -> None:
        """Nobody refuted in time: conclude, if enough have accused."""
        member = self.members.get(node)
        if member is None or member.state not in PROBED or not member.evidence:
            return
        if member.state == "stalled" and now.boot_ns - member.lost_ns >= self._limits.stalled_ms * NS_PER_MS:
            self.set_state(member, "dead", now)
            return
        state = verdict(member.evidence, accusers_needed(self.unsuspected()))
        hold_ns = self._flaps.hold_ms(node, now) * NS_PER_MS
        if state is None:
            self._out.after(("suspicion", node), now, self._limits.probe_interval_ms)
        elif member.state == "suspect" and now.boot_ns < member.suspected_ns + self._wait_ns(member) + hold_ns:
            self._out.timers.set(("suspicion", node), member.suspected_ns + self._wait_ns(member) + hold_ns)
        elif state != member.state:
            self._conclude(member, state, now)

    def _conclude(self, member: Member, state: State, now: Instant) -> None:
        if state == "dead" and self.minority():
            self.set_state(member, "unreachable", now)
            for other in self.all():
                if other.state == "dead" and now.boot_ns - other.lost_ns < PARTITION_MS * NS_PER_MS:
                    self.set_state(other, "unreachable", now)
        else:
            self.set_state(member, state, now)

    def postpone(self, now: Instant) -> None:
        """We were frozen: every suspicion begins anew, because nobody could have refuted it to us."""
        for member in self.all():
            if member.state == "suspect":
                member.suspected_ns = now.boot_ns
                self._wait_for(member)

    def heard_from(self, node: bytes, now: Instant) -> None:
        """A member that is not simply alive here speaks."""
        member = self.members[node]
        if member.state == "unreachable":
            member.evidence = {}
            self.set_state(member, "alive", now)
        elif member.state in ("dead", "agent_down", "stalled") and self._out.once(("accuse", node), now, self._limits.probe_interval_ms):
            # Only its own word counts, so tell it: it refutes, and is alive again for everybody.
            self.send(node, Claims(((self._accusation(member, "silent"), b""),)))

    def set_state(self, member: Member, state: State, now: Instant) -> None:
        """Change what we hold of a member, and tell."""
        before = member.state
        member.state = state
        member.since_ms = now.wall_ms
        if state not in ("alive", "suspect"):
            member.lost_ns = now.boot_ns
            self._out.timers.cancel(("suspicion", member.node))
        if state == "dead" and before != "unreachable":
            self._flaps.failed(member.node, now)
        elif state == "stalled":
            self._out.after(("suspicion", member.node), now, self._limits.stalled_ms)
        if state != "suspect":
            self._changed(member, before in LOST and state == "alive")
        self._out.tell(MemberChanged(member.node, state))

    def _changed(self, member: Member, returned: bool) -> None:
        """Keep the row and the digest true; if one member is back after a cut, the others may be, too."""
        self.rows.put(member)
        value = item_hash([member.node, member.alive.incarnation, member.state == "left"])
        self.known_sum += value - self._summed.get(member.node, 0)
        self._summed[member.node] = value
        if returned:
            for other in self.lost()[:RETURN_GREETINGS]:
                self.greet(other.address, other.node)

    def _is_confirmer(self, accused: bytes) -> bool:
        """Is it on us to check this accusation? The same few nodes are chosen everywhere (rendezvous hashing)."""
        nodes = [self._context.id, *(n for n in self.present() if n != accused)]
        chosen = sorted(nodes, key=lambda node: hashlib.sha256(accused + node).digest())[: self._limits.confirmers]
        return self._context.id in chosen

    # -- the roster ----------------------------------------------------------------------------------------------------

    def enforce(self, now: Instant) -> None:
        """The roster has changed: cut off whoever it revokes."""
        roster = self._context.trust.roster
        for member in self.all():
            if (roster.is_revoked(member.node) or roster.is_revoked(member.certificate.issuer)) and member.state != "left":
                self._context.sessions.forget(member.node)
                self.set_state(member, "left", now)


def unpack_suspect(claim: bytes, limit: int) -> Suspect:
    """The content of an accusation, unchecked."""
    return unpack(unpack(claim, tuple[str, bytes, bytes, bytes], limit)[1], Suspect, limit)


def item_hash(item: object) -> int:
    """Eight bytes for a digest that is a sum, so that it can be kept up instead of being computed anew."""
    return int.from_bytes(hashlib.sha256(pack(item)).digest()[:8], "big")
