"""Who is there: SWIM's probes, claims and suspicions for one node (DESIGN section 3.2)."""

import ipaddress
from collections.abc import Callable

from cloudisense.keys.certificate import check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError, invariant
from cloudisense.keys.given import Rng
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Roster
from cloudisense.keys.session import SessionKey, Sessions
from cloudisense.mesh.dissemination import Piggyback, retransmit_limit
from cloudisense.mesh.effects import Address, Put
from cloudisense.mesh.events import MemberChanged
from cloudisense.mesh.hello import Greeter
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Alive, Left, Member, State, Suspect, accusation_counts, alive_wins, departure_counts
from cloudisense.mesh.outbound import Outbound
from cloudisense.mesh.probe import Probe, Prober
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.suspicion import accusers_needed, suspicion_ms
from cloudisense.mesh.wire import Ack, Claims, Message, Nack, Ping, PingRequest, SignedClaim

ACCUSATIONS = 3
"""Accusations against one member that are told to those who may not know them: one more than a death needs."""
MAX_INCARNATION = 2**63


class Membership:
    """The member table and the failure detector.

    ``digest`` gives the eight bytes that ride on every ping and ack; ``compare`` is told what a peer's were; ``repair``
    exchanges all that is known with one member.
    """

    def __init__(
        self,
        identity: Identity,
        certificate: bytes,
        mesh_id: bytes,
        roster: Roster,
        session_key: SessionKey,
        sessions: Sessions,
        greeter: Greeter,
        out: Outbound,
        limits: Limits,
        rng: Rng,
        stored: Stored,
    ) -> None:
        self.members: dict[bytes, Member] = {}
        self.incarnation = stored.incarnation
        self.certificate = certificate
        self.digest: Callable[[], bytes] = lambda: b""
        self.compare: Callable[[bytes, bytes], None] = lambda peer, digest: None
        self.repair: Callable[[bytes], None] = lambda peer: None
        self._identity = identity
        self._mesh_id = mesh_id
        self._roster = roster
        self._session_key = session_key
        self._sessions = sessions
        self._greeter = greeter
        self._out = out
        self._limits = limits
        self._rng = rng
        self._stored = stored
        self._prober = Prober(rng)
        self._piggyback = Piggyback()
        self._lost_turn = 0
        self._leaving = False
        self.claim = self._own_claim()

    def start(self, now: Instant) -> None:
        """Restore known members, greet them and the seeds, begin to probe."""
        self.take_claims(self._stored.members, now)
        for address in self._stored.seeds:
            self.greet(address)
        for member in self.all():
            self.greet(member.address, member.node)
        self._spread(self._identity.id, self._identity.id, (self.claim, self.certificate))
        self._out.after("probe", now, self._rng.randrange(self._limits.probe_interval_ms))
        self._out.after("gossip", now, self._rng.randrange(self._limits.gossip_interval_ms))

    def all(self) -> list[Member]:
        """Every other node ever heard of, sorted by id."""
        return [self.members[node] for node in sorted(self.members)]

    def present(self) -> list[bytes]:
        """Members that are counted on, sorted, without ourselves."""
        return [member.node for member in self.all() if member.present]

    def send(self, peer: bytes, message: Message) -> None:
        """Send to a known member."""
        self._out.send(peer, self.members[peer].address, message)

    def greet(self, address: Address, to: bytes = b"") -> None:
        """Say hello to an address; whoever answers with our token becomes a member."""
        if address != self._stored.address:
            self._out.send_clear(address, self._greeter.hello(self.claim, self.certificate, address, to, b"", ask=True))

    def leave(self) -> None:
        """Tell everyone that we go on purpose."""
        self._leaving = True
        left = seal(self._identity, "left", self._mesh_id, pack(Left(self._identity.id, self.incarnation)))
        for node in self.present():
            self.send(node, Claims(((left, b""),)))

    # -- claims --------------------------------------------------------------------------------------------------------

    def known_claims(self) -> list[SignedClaim]:
        """All that convinces a newcomer of what we hold: who there is, then who left, and who accuses whom."""
        claims = [(self.claim, self.certificate), *((member.claim, member.certificate_data) for member in self.all())]
        for member in self.all():
            claims += [(member.departure, b"")] if member.state == "left" else self._accusations(member)
        return claims

    def _accusations(self, member: Member) -> list[SignedClaim]:
        """The accusations that count against it, as many as help a listener along."""
        return [(member.accusers[accuser], b"") for accuser in sorted(member.accusers)[:ACCUSATIONS]]

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
                self._take_left(unpack(body, Left, self._limits.claim_bytes), claim[0], now)
            case _:
                raise RemoteProtocolError("unknown claim")

    def check_alive(self, claim: bytes) -> Alive:
        """The content of an alive claim, its signature and form checked. Raises ``RemoteProtocolError``."""
        envelope = open_envelope(claim, self._mesh_id, "alive", self._limits.claim_bytes)
        alive = unpack(envelope.body, Alive, self._limits.claim_bytes)
        numbers = 0 < alive.port < 65536 and 0 < alive.incarnation < MAX_INCARNATION and 0 <= alive.boot < MAX_INCARNATION
        if envelope.signer != alive.node or len(alive.session_public) != 32 or not numbers or not _is_host(alive.host):
            raise RemoteProtocolError("malformed alive claim")
        return alive

    def _take_alive(self, heard: Alive, claim: SignedClaim, now: Instant) -> None:
        if heard.node == self._identity.id:
            self._heard_ourselves(heard, claim[0], now)
            return
        known = self.members.get(heard.node)
        if not alive_wins(known, heard):
            return
        alive = self.check_alive(claim[0])
        certificate = check_certificate(claim[1], self._roster, self._mesh_id, now.wall_ms, now.wall_trusted)
        if certificate.node != alive.node or certificate.name != alive.name:
            raise RemoteProtocolError("certificate of another node")
        if known is None and len(self.members) >= self._limits.members:
            raise RemoteProtocolError("too many members")
        self._sessions.learn(alive.node, alive.session_public, now)
        changed = known is None or known.state != "alive"
        since_ms = now.wall_ms if known is None or changed else known.since_ms
        self.members[alive.node] = member = Member(alive.node, alive, claim[0], claim[1], certificate, "alive", since_ms)
        self._out.timers.cancel(("suspicion", alive.node))
        self._piggyback.drop(alive.node)
        self._spread(alive.node, alive.node, claim)
        self._persist(member)
        if changed:
            self._out.tell(MemberChanged(alive.node, "alive"))

    def _heard_ourselves(self, heard: Alive, claim: bytes, now: Instant) -> None:
        """Peers hold a claim of ours that we forgot: our state was restored from an older copy. Claim above it."""
        if heard.incarnation > self.incarnation or (heard.incarnation == self.incarnation and claim != self.claim):
            self.check_alive(claim)
            if self._out.once(("forgotten", heard.node), now, self._limits.probe_interval_ms):
                self.incarnation = heard.incarnation
                self._refute()

    def _take_suspect(self, heard: Suspect, claim: bytes, now: Instant) -> None:
        accuser = self.members.get(heard.accuser)
        if accuser is None:
            return
        if heard.accused == self._identity.id:
            # Whoever says so, present or not: it may be us who were cut off.
            if heard.incarnation == self.incarnation and not self._leaving:
                self._check_signer(claim, "suspect", heard.accuser)
                self._refute()
            return
        known = self.members.get(heard.accused)
        if known is not None and accuser.present and accusation_counts(known, heard):
            self._check_signer(claim, "suspect", heard.accuser)
            self._accuse(known, heard.accuser, claim, now)

    def _take_left(self, heard: Left, claim: bytes, now: Instant) -> None:
        known = self.members.get(heard.node)
        if known is not None and departure_counts(known, heard):
            self._check_signer(claim, "left", heard.node)
            self._spread(heard.node, heard.node, (claim, b""))
            known.departure, known.left_at = claim, heard.incarnation
            self._set_state(known, "left", now)

    def _check_signer(self, claim: bytes, kind: str, signer: bytes) -> None:
        if open_envelope(claim, self._mesh_id, kind, self._limits.claim_bytes).signer != signer:
            raise RemoteProtocolError("claim in another's name")

    def _refute(self) -> None:
        """We are alive: claim one incarnation more, durably first, so that no later boot can claim a lower one.

        One more than our own, not than the accusation's: a forged height would exhaust the counter.
        """
        self.incarnation += 1
        incarnation = self.incarnation
        row = Put("meta", {"key": "incarnation", "value": incarnation.to_bytes(8, "big")})
        self._out.persist((row,), lambda _: self._announce(incarnation))

    def _announce(self, incarnation: int) -> None:
        if incarnation == self.incarnation and not self._leaving:
            self.claim = self._own_claim()
            self._spread(self._identity.id, self._identity.id, (self.claim, self.certificate))

    def _own_claim(self) -> bytes:
        invariant(self.incarnation > 0, "an incarnation was made durable before the first claim")
        host, port = self._stored.address
        public = self._session_key.public
        alive = Alive(self._identity.id, self._stored.name, host, port, self.incarnation, self._stored.boot, public)
        return seal(self._identity, "alive", self._mesh_id, pack(alive))

    # -- suspicion -----------------------------------------------------------------------------------------------------

    def _accuse(self, member: Member, accuser: bytes, claim: bytes, now: Instant) -> None:
        member.accusers[accuser] = claim
        self._spread(member.node, accuser, (claim, b""))
        if member.state == "alive":
            member.suspected_ns = now.boot_ns
            self._set_state(member, "suspect", now)
        wait_ms = suspicion_ms(self._limits, len(self.present()) + 1, len(member.accusers))
        self._out.timers.set(("suspicion", member.node), member.suspected_ns + wait_ms * NS_PER_MS)

    def suspicion_over(self, node: bytes, now: Instant) -> None:
        """Nobody refuted in time: dead, if enough have accused."""
        member = self.members.get(node)
        if member is None or member.state != "suspect":
            return
        unsuspected = 1 + sum(m.state == "alive" for m in self.members.values())
        if len(member.accusers) >= accusers_needed(unsuspected):
            self._set_state(member, "dead", now)
        else:
            self._out.after(("suspicion", node), now, self._limits.probe_interval_ms)
            # Others may hold it dead already and accuse no more: ask one of them what they know.
            if self._out.once("repair", now, self._limits.probe_interval_ms):
                for other in self._choose([m.node for m in self.all() if m.state == "alive"], 1):
                    self.repair(other)

    def _set_state(self, member: Member, state: State, now: Instant) -> None:
        member.state = state
        member.since_ms = now.wall_ms
        if not member.present:
            self._out.timers.cancel(("suspicion", member.node))
        self._persist(member)
        self._out.tell(MemberChanged(member.node, state))

    def heard_from(self, node: bytes, now: Instant) -> None:
        """A member that we hold for dead speaks: tell it, so that it refutes and is alive again for everybody."""
        member = self.members[node]
        if member.state == "dead" and self._out.once(("accuse", node), now, self._limits.probe_interval_ms):
            self.send(node, Claims(((self._accusation(member), b""),)))

    def _accusation(self, member: Member) -> bytes:
        accusation = Suspect(member.node, member.alive.incarnation, self._identity.id)
        return seal(self._identity, "suspect", self._mesh_id, pack(accusation))

    # -- probes --------------------------------------------------------------------------------------------------------

    def probe(self, now: Instant) -> None:
        """One protocol period: probe one member, try one that was lost."""
        self._out.after("probe", now, self._limits.probe_interval_ms)
        urgent = [m.node for m in self.all() if m.state == "suspect" and self._identity.id not in m.accusers]
        target = self._prober.next_target(self.present(), urgent)
        if target is not None:
            self._ping(self._prober.start(target, self.members[target].alive.incarnation), now)
        self._greet_lost()

    def ping(self, peer: bytes, message: Ping, now: Instant) -> None:
        """A peer probes us."""
        self.take_claims(message.claims, now)
        self.compare(peer, message.digest)
        self.send(peer, Ack(message.sequence, self.digest(), self._ride_along()))

    def ack(self, peer: bytes, message: Ack, now: Instant) -> None:
        """A probe of ours, or one that we relay, was answered."""
        self.take_claims(message.claims, now)
        probe = self._prober.answered(message.sequence, peer)
        if probe is None:
            return
        self._out.timers.cancel(("probe", probe.sequence))
        if probe.relayed_for is not None:
            asker, theirs = probe.relayed_for
            self.send(asker, Ack(theirs, self.digest(), self._ride_along()))
        self.compare(peer, message.digest)

    def relay(self, asker: bytes, request: PingRequest, now: Instant) -> None:
        """Probe a member on behalf of another."""
        target = self.members.get(request.target)
        if target is not None and len(self._prober.open) < self._limits.relayed_probes:
            self._ping(self._prober.start(request.target, target.alive.incarnation, (asker, request.sequence)), now)

    def probe_late(self, sequence: int, now: Instant) -> None:
        """No ack in time: ask relays; after those, accuse."""
        probe = self._prober.open.get(sequence)
        if probe is None:
            return
        if probe.relayed_for is not None:
            asker, theirs = probe.relayed_for
            del self._prober.open[sequence]
            self.send(asker, Nack(theirs))
        elif probe.asked is None:
            probe.asked = tuple(self._choose([n for n in self.present() if n != probe.target], self._limits.indirect_probes))
            for relay in probe.asked:
                self.send(relay, PingRequest(sequence, probe.target))
            self._out.after(("probe", sequence), now, self._limits.probe_interval_ms - self._limits.probe_timeout_ms)
        else:
            del self._prober.open[sequence]
            self._probe_failed(probe, now)

    def _ping(self, probe: Probe, now: Instant) -> None:
        # Buddy system (Lifeguard section IV-C): who is suspected hears of it with the very next ping.
        accusations = tuple(self._accusations(self.members[probe.target]))
        self.send(probe.target, Ping(probe.sequence, self.digest(), accusations + self._ride_along(accusations)))
        self._out.after(("probe", probe.sequence), now, self._limits.probe_timeout_ms)

    def _probe_failed(self, probe: Probe, now: Instant) -> None:
        member = self.members.get(probe.target)
        if member is None or not member.present or member.alive.incarnation != probe.incarnation or self._identity.id in member.accusers:
            return
        claim = self._accusation(member)
        self._accuse(member, self._identity.id, claim, now)
        # The accused hears of it first, and directly.
        self.send(member.node, Claims(((claim, b""),)))

    def _greet_lost(self) -> None:
        """Heal forever: one lost member, or one silent seed, per period."""
        known = {m.address for m in self.members.values()}
        lost = [m.address for m in self.all() if m.state == "dead"]
        lost += [seed for seed in self._stored.seeds if seed not in known and seed != self._stored.address]
        if lost:
            self._lost_turn += 1
            self.greet(lost[self._lost_turn % len(lost)])

    # -- gossip --------------------------------------------------------------------------------------------------------

    def gossip(self, now: Instant) -> None:
        """Between probes, spread what is new to a few members."""
        self._out.after("gossip", now, self._limits.gossip_interval_ms)
        if not len(self._piggyback):
            return
        for node in self._choose(self.present(), self._limits.gossip_fanout):
            if claims := self._ride_along():
                self.send(node, Claims(claims))

    def _spread(self, subject: bytes, author: bytes, claim: SignedClaim) -> None:
        self._piggyback.add(subject, author, claim)

    def _ride_along(self, beside: tuple[SignedClaim, ...] = ()) -> tuple[SignedClaim, ...]:
        room = self._limits.datagram_bytes - 64 - sum(len(claim[0]) + 8 for claim in beside)
        return self._piggyback.take(room, retransmit_limit(self._limits, len(self.members) + 1))

    def _persist(self, member: Member) -> None:
        row = {
            "node": member.node,
            "claim": member.claim,
            "certificate": member.certificate_data,
            "state": member.state,
            "since_ms": member.since_ms,
        }
        self._out.persist((Put("members", row),))

    def _choose(self, nodes: list[bytes], count: int) -> list[bytes]:
        pool = sorted(nodes)
        return [pool.pop(self._rng.randrange(len(pool))) for _ in range(min(count, len(pool)))]


def _is_host(text: str) -> bool:
    """Whether a member may be at ``text``: the IP address of one host, never a name to look up nor a crowd."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_multicast or address.is_unspecified)
