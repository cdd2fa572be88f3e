"""Who is there: the member table, the claims that change it, and what follows from accusations (DESIGN section 3.2)."""

import hashlib
from collections.abc import Callable

from cloudisense.keys.certificate import check_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope
from cloudisense.keys.errors import RemoteProtocolError, invariant
from cloudisense.keys.session import SessionKey
from cloudisense.mesh.address import reachable
from cloudisense.mesh.authorship import Authorship
from cloudisense.mesh.clone import Doubles
from cloudisense.mesh.context import Context
from cloudisense.mesh.effects import Address, Put
from cloudisense.mesh.events import MemberChanged, Misbehaved, NameConflict
from cloudisense.mesh.flap import Flaps
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.member import (
    GONE,
    LOST,
    PROBED,
    Alive,
    Forgotten,
    Left,
    Member,
    Restarting,
    State,
    Suspect,
    accusation_counts,
    alive_wins,
    departure_counts,
    forgetting_counts,
    unpack_suspect,
)
from cloudisense.mesh.rows import MemberRows
from cloudisense.mesh.silence import SETTLED, verdict
from cloudisense.mesh.suspicion import accusers_needed, suspicion_ms
from cloudisense.mesh.voice import ACCUSATIONS, Voice
from cloudisense.mesh.wire import Claims, SignedClaim

RETURN_GREETINGS = 8
MAX_INCARNATION = 2**63
DEPARTURE = "departure "
"""``meta`` keys that begin so hold the claim with which a member left or was forgotten; its id in hex follows."""
PARTITION_MS = 30_000
"""Deaths this young belong to the same cut when we find ourselves in a minority."""


class Membership(Voice):
    """What changes the member table: claims, accusations, departures.

    ``confirm`` is asked to probe a member at once, because another accuses it; ``repair`` exchanges all that is known with one.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.incarnation = context.stored.incarnation
        self.confirm: Callable[[bytes, Instant], None] = lambda node, now: None
        self.repair: Callable[[bytes], None] = lambda peer: None
        self.cloned = False
        """Another host runs with our key, proven in this boot. Two that are one must not act for anybody."""
        self._doubles = Doubles()
        self.rows = MemberRows(context.out, context.limits)
        self._flaps = Flaps(context.limits)
        self._leaving = False
        self._owed = 0
        self._authors = Authorship(context.mesh_id, context.limits)
        self.claim = self._own_claim()

    def start(self, now: Instant) -> None:
        """Restore known members, greet them and the seeds."""
        self._restore(now)
        for member in self.all():
            # Of two that start at the same moment, one greets: or each pair would do so twice.
            if self._context.id < member.node or member.state in LOST:
                self.greet(member.address, member.node)
        self._out.after("greet", now, self._limits.seek_ms)
        self.spread(self._context.id, self._context.id, (self.claim, self._context.certificate))
        self._out.after("gossip", now, self._context.rng.randrange(self._limits.gossip_interval_ms))

    def _restore(self, now: Instant) -> None:
        """Begin with what was known: who left stays left, and who was lost has to show up again before it counts."""
        stored = self._context.stored
        self.take_claims(stored.members, now)
        for (claim, _), state in zip(stored.members, stored.states, strict=False):
            try:
                body = unpack(claim, tuple[str, bytes, bytes, bytes], self._limits.claim_bytes)[1]
                node = unpack(body, Alive, self._limits.claim_bytes).node
            except RemoteProtocolError:
                continue  # the disk did not keep it: ``take_claims`` has counted it, and the others know better
            member = self.members.get(node)
            if member is None or member.state in GONE:
                continue
            if state == "left":
                member.left_at = member.alive.incarnation
                self.set_state(member, "left", now)
            elif state not in ("", "alive", "suspect"):
                self.set_state(member, "dead", now)
        self._flaps = Flaps(self._limits)  # what an earlier life held for lost did not fail before our eyes

    # -- sending -------------------------------------------------------------------------------------------------------

    def greet(self, address: Address, to: bytes = b"") -> None:
        """Say hello to an address; whoever answers with our token becomes a member."""
        if address != self._context.stored.address:
            hello = self._context.greeter.hello(self.claim, self._context.certificate, address, to, b"", ask=True)
            self._out.send_clear(address, hello)

    def greet_unmet(self) -> None:
        """Members of our store that gave no sign since the start."""
        for member in self.all():
            if member.present and not member.heard:
                self.greet(member.address, member.node)

    def leave(self) -> None:
        """Tell everyone that we go on purpose."""
        self._leaving = True
        self.rows.flush()
        self.tell_all((self._context.seal("left", Left(self._context.id, self.incarnation)), b""))

    def restart(self) -> None:
        """Tell everyone that only our agent stops, and only for a moment."""
        self._leaving = True
        self.rows.flush()
        self.tell_all((self._context.seal("restarting", Restarting(self._context.id, self.incarnation)), b""))

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
            case "forgotten":
                self._take_forgotten(unpack(body, Forgotten, self._limits.claim_bytes), claim[0], now)
            case "revocation" | "succession":
                self.revoke(claim[0], now)
            case _:
                raise RemoteProtocolError("unknown claim")

    def check_alive(self, claim: bytes) -> Alive:
        """The content of an alive claim, its signature and form checked. Raises ``RemoteProtocolError``."""
        envelope = open_envelope(claim, self._context.mesh_id, "alive", self._limits.claim_bytes)
        alive = unpack(envelope.body, Alive, self._limits.claim_bytes)
        numbers = 0 < alive.port < 65536 and 0 < alive.incarnation < MAX_INCARNATION and 0 <= alive.boot < MAX_INCARNATION
        if envelope.signer != alive.node or len(alive.session_public) != 32 or not numbers or not reachable((alive.host, alive.port)):
            raise RemoteProtocolError("malformed alive claim")
        return alive

    def _take_alive(self, heard: Alive, claim: SignedClaim, now: Instant) -> None:
        if heard.node == self._context.id:
            self._heard_ourselves(heard, claim[0], now)
            return
        known = self.members.get(heard.node)
        if not alive_wins(known, heard):
            return
        self._authors.check(heard.node, now)
        alive = self.check_alive(claim[0])
        trust = self._context.trust
        certificate = check_certificate(claim[1], trust.roster, trust.mesh_id, now.wall_ms, now.wall_trusted)
        if certificate.node != alive.node or certificate.name != alive.name:
            raise RemoteProtocolError("certificate of another node")
        if known is None and len(self.members) >= self._limits.members:
            raise RemoteProtocolError("too many members")
        same_boot = known is not None and known.alive.boot == alive.boot
        self._context.sessions.learn(alive.node, alive.session_public, now, same_boot)
        self._authors.charge(alive.node, now)
        before = known.state if known is not None else None
        if known is not None and not same_boot:
            self._flaps.rebooted(alive.node)
        elif known is not None and before == "suspect" and self._overdue(known, now):
            self._flaps.held(alive.node, now)
        since_ms = known.since_ms if known is not None and before == "alive" else now.wall_ms
        member = Member(alive.node, alive, claim[0], claim[1], certificate, "alive", since_ms)
        self.members[alive.node] = member
        self.touched()
        self._out.timers.cancel(("suspicion", alive.node))
        self._piggyback.drop(alive.node)
        self.spread(alive.node, alive.node, claim)
        self._changed(member, before in LOST if before else False)
        if before != "alive":
            self._out.tell(MemberChanged(alive.node, "alive"))
            own = [self._context.id] if alive.name == self._context.stored.name else []
            self._out.tell(*(NameConflict(alive.node, other) for other in own + self.namesakes(member)))

    def _heard_ourselves(self, heard: Alive, claim: bytes, now: Instant) -> None:
        """Peers hold a claim of ours that we forgot: our state was restored from an older copy. Claim above it."""
        if heard.incarnation > self.incarnation or (heard.incarnation == self.incarnation and claim != self.claim):
            self.check_alive(claim)
            if heard.session_public != self._context.sessions.key.public and self._doubles.heard(now) and not self.cloned:
                self.cloned = True
                self._out.tell(Misbehaved(self._context.id, "cloned"))
            if self._out.once(("forgotten", heard.node), now, self._limits.probe_interval_ms):
                self.incarnation = heard.incarnation
                self._claim_anew(heard.node)

    def _take_suspect(self, heard: Suspect, claim: bytes, now: Instant) -> None:
        accuser = self.members.get(heard.accuser)
        if accuser is None or self._context.trust.roster.is_revoked(heard.accuser):
            return
        if heard.accused == self._context.id:
            # Whoever says so, present or not: it may be us who were cut off.
            if heard.incarnation == self.incarnation and not self._leaving:
                self._authors.check_signer(claim, "suspect", heard.accuser, now)
                # Its next probe cannot have failed sooner; each refutation costs a sync and a word to everyone.
                if self._out.once(("refute", heard.accuser), now, self._limits.probe_timeout_ms):
                    self._claim_anew(heard.accuser)
                elif "refute" not in self._out.timers:
                    self._owed = self.incarnation
                    self._out.after("refute", now, self._limits.probe_timeout_ms)
            return
        known = self.members.get(heard.accused)
        if known is not None and accuser.present and accusation_counts(known, heard):
            self._authors.check_signer(claim, "suspect", heard.accuser, now)
            self._accused(known, heard.accuser, heard.evidence, claim, now)
            # Who said otherwise of a silence that is settled looks again: either may be right, and neither takes the other's word away.
            contradicted = known.state in SETTLED and known.evidence.get(self._context.id, heard.evidence) != heard.evidence
            if contradicted or self.is_confirmer(self._context.id, known.node, self._limits.confirmers):
                self.confirm(known.node, now)
        elif known is not None and accuser.present and known.state == "dead" and heard.incarnation == known.alive.incarnation:
            self._second(known, heard.accuser, now)

    def _second(self, member: Member, accuser: bytes, now: Instant) -> None:
        """``accuser`` restarted or is new, and sees alone what we concluded long ago: bear it out, or see again for ourselves."""
        if not self._out.once(("second", member.node, accuser), now, self._limits.probe_interval_ms):
            return
        if self._context.id in member.evidence:
            self.send(accuser, Claims(((self._accusation(member, member.evidence[self._context.id]), b""),)))
        elif self.is_confirmer(self._context.id, member.node, self._limits.confirmers):
            self.confirm(member.node, now)

    def _take_departure(self, heard: Left | Restarting, kind: str, claim: bytes, now: Instant) -> None:
        known = self.members.get(heard.node)
        if known is None or not departure_counts(known, heard) or (kind == "restarting" and known.state == "agent_down"):
            return
        self._authors.check_signer(claim, kind, heard.node, now)
        self.spread(heard.node, heard.node, (claim, b""))
        known.departure, known.left_at = claim, heard.incarnation
        if kind == "left":
            self._keep_departure(known)
        self.set_state(known, "left" if kind == "left" else "agent_down", now)

    def _take_forgotten(self, heard: Forgotten, claim: bytes, now: Instant) -> None:
        known = self.members.get(heard.node)
        ours = heard.node == self._context.id and heard.incarnation >= self.incarnation and not self._leaving
        if not ours and (known is None or not forgetting_counts(known, heard)):
            return
        signer = open_envelope(claim, self._context.mesh_id, "forgotten", self._limits.claim_bytes).signer
        roster = self._context.trust.roster
        if signer not in roster.operators or roster.is_revoked(signer):
            raise RemoteProtocolError("claim without the role")
        if known is None:
            self._claim_anew()  # it is us, and here we are
            return
        known.departure = claim
        self._keep_departure(known)
        self._piggyback.drop(known.node)
        self.spread(known.node, known.node, (claim, b""))
        self.set_state(known, "forgotten", now)

    def refute_owed(self) -> None:
        """An accusation came too soon after another to be answered at once; not to answer would leave us suspected."""
        if self._owed == self.incarnation and not self._leaving:
            self._claim_anew()

    def _keep_departure(self, member: Member) -> None:
        """So that a restart, which believes every stored claim at first, does not bring the member back."""
        self._out.persist((Put("meta", {"key": DEPARTURE + member.node.hex(), "value": member.departure}),))

    def rekey(self) -> None:
        """Go over to a new session key, published in a new claim; the old one opens for two more minutes (DESIGN section 3.1)."""
        if not self._leaving:
            key = SessionKey.generate(self._context.rng)
            self._claim_anew(first=lambda now: self._context.sessions.rotate(key, now))

    def _claim_anew(self, accuser: bytes = b"", first: Callable[[Instant], None] = lambda now: None) -> None:
        """We are alive: claim one incarnation more, durably first, so that no later boot can claim a lower one.

        One more than our own, not than the accusation's: a forged height would exhaust the counter.
        """
        self.incarnation += 1
        incarnation = self.incarnation
        row = Put("meta", {"key": "incarnation", "value": incarnation.to_bytes(8, "big")})

        def durable(now: Instant) -> None:
            first(now)
            self._announce(incarnation, accuser)

        self._out.persist((row,), durable)

    def _announce(self, incarnation: int, accuser: bytes) -> None:
        if incarnation == self.incarnation and not self._leaving:
            self.claim = self._own_claim()
            claim = (self.claim, self._context.certificate)
            self.spread(self._context.id, self._context.id, claim)
            self.tell_all(claim, accuser)

    def _own_claim(self) -> bytes:
        invariant(self.incarnation > 0, "an incarnation was made durable before the first claim")
        stored = self._context.stored
        host, port = stored.address
        public = self._context.sessions.key.public
        return self._context.seal("alive", Alive(self._context.id, stored.name, host, port, self.incarnation, stored.boot, public))

    # -- suspicion -----------------------------------------------------------------------------------------------------

    def accuse(self, member: Member, evidence: str, now: Instant) -> None:
        """Our own probe of ``member`` met ``evidence``: say so to everyone, the accused first (Lifeguard section IV-C)."""
        claim = self._accusation(member, evidence)
        if member.state == "dead" and self._context.id not in member.evidence:
            member.evidence[self._context.id] = evidence
            self.tell_all((claim, b""))
        if not accusation_counts(member, unpack_suspect(claim, self._limits.claim_bytes)):
            return
        met = self._standing(member)
        if member.state in SETTLED and self._context.id not in met and list(met.values()).count(evidence) >= ACCUSATIONS:
            return  # enough have said it: no need that each of us says it to each
        self.send(member.node, Claims(((claim, b""),)))
        self._accused(member, self._context.id, evidence, claim, now)
        self.tell_all((claim, b""), but=member.node)

    def _accusation(self, member: Member, evidence: str) -> bytes:
        suspect = [member.node, member.alive.incarnation, self._context.id, evidence]
        return self._context.seal("suspect", suspect)

    def _accused(self, member: Member, accuser: bytes, evidence: str, claim: bytes, now: Instant) -> None:
        member.evidence[accuser] = evidence
        member.accusations[accuser] = claim
        self.spread(member.node, accuser, (claim, b""))
        if member.state == "alive":
            member.suspected_ns = now.boot_ns
            self.set_state(member, "suspect", now)
        kind = self._verdict(member)
        if kind == "agent_down":
            if member.state != "agent_down":
                self.set_state(member, "agent_down", now)
        elif kind != member.state:
            if member.state in SETTLED and member.suspected_ns <= member.lost_ns:
                member.suspected_ns = now.boot_ns  # the silence has become another one
            self._wait_for(member)

    def _standing(self, member: Member) -> dict[bytes, str]:
        """What its accusers met. That a host was up is old news when its witness is lost, too, and others meet another silence."""
        if member.state not in SETTLED:
            return member.evidence
        here = {self._context.id, *self.present()}
        return {accuser: what for accuser, what in member.evidence.items() if what == "silent" or accuser in here}

    def _verdict(self, member: Member) -> State | None:
        return verdict(self._standing(member), accusers_needed(self.unsuspected()))

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
        state = self._verdict(member)
        hold_ns = self._flaps.hold_ms(node, now) * NS_PER_MS
        if state is None:
            # Those who were to confirm did not: beyond the same cut, or it is well and has not heard of the accusation.
            self.confirm(node, now)
            self._out.after(("suspicion", node), now, self._limits.probe_interval_ms)
            # Others may hold it dead already and accuse no more: ask one of them what they know.
            if self._out.once("repair", now, self._limits.probe_interval_ms):
                for other in self._context.choose([m.node for m in self.all() if m.state == "alive"], 1):
                    self.repair(other)
        elif member.state == "suspect" and now.boot_ns < member.suspected_ns + self._wait_ns(member) + hold_ns:
            self._out.timers.set(("suspicion", node), member.suspected_ns + self._wait_ns(member) + hold_ns)
        elif state != member.state:
            self._conclude(member, state, now)
        else:
            member.suspected_ns = 0  # borne out after all
            if state == "stalled":
                self._out.timers.set(("suspicion", node), member.lost_ns + self._limits.stalled_ms * NS_PER_MS)

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
            if member.state == "suspect" or (member.state == "agent_down" and ("suspicion", member.node) in self._out.timers):
                member.suspected_ns = now.boot_ns
                self._wait_for(member)
            elif member.state == "stalled":
                member.lost_ns, member.suspected_ns = now.boot_ns, 0
                self._out.after(("suspicion", member.node), now, self._limits.stalled_ms)

    def heard_from(self, node: bytes, now: Instant) -> None:
        """A member that is not simply alive here speaks."""
        member = self.members[node]
        member.heard = True
        if member.state == "unreachable":
            member.evidence, member.accusations = {}, {}
            self.set_state(member, "alive", now)
        elif member.state in ("dead", "agent_down", "stalled", "forgotten") and self._out.once(
            ("accuse", node), now, self._limits.probe_interval_ms
        ):
            # Only its own word counts, so tell it: it refutes, and is alive again for everybody.
            self.send(node, Claims(((self._accusation(member, "silent"), b""),)))

    def set_state(self, member: Member, state: State, now: Instant) -> None:
        """Change what we hold of a member, and tell."""
        before = member.state
        member.state = state
        self.touched()
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
        self.sum_up(member)
        if returned:
            lost = {other.node: other for other in self.lost()}
            for node in self._context.choose(sorted(lost), RETURN_GREETINGS):
                self.greet(lost[node].address, node)

    # -- the roster ----------------------------------------------------------------------------------------------------

    def revoke(self, claim: bytes, now: Instant) -> bool:
        """An operator revokes a key for seven days, or it was replaced; true when that is new. Raises ``RemoteProtocolError``."""
        trust = self._context.trust
        if not trust.revoke(claim, now):
            return False
        self._out.persist((Put("meta", {"key": "revocations", "value": pack(list(trust.revocations.claims()))}),))
        self.spread(hashlib.sha256(claim).digest(), self._context.id, (claim, b""))
        self.tell_all((claim, b""))
        self.refresh(now)
        return True

    def refresh(self, now: Instant) -> None:
        """Quick revocations end by themselves."""
        if self._context.trust.refresh(now):
            self.enforce(now)

    def renewed(self, certificate: bytes, leaf: bytes) -> None:
        """An issuer gave us a new certificate: claim it with the next incarnation, all of it durable first."""
        self._context.certificate = certificate
        self.incarnation += 1
        incarnation = self.incarnation
        values = {"certificate": certificate, "leaf": leaf, "incarnation": incarnation.to_bytes(8, "big")}
        rows = tuple(Put("meta", {"key": key, "value": value}) for key, value in values.items())
        self._out.persist(rows, lambda _: self._announce(incarnation, self._context.id))

    def enforce(self, now: Instant) -> None:
        """The roster has changed: cut off whoever it revokes."""
        for member in self.all():
            if self.shut_out(member.node):
                self._context.sessions.forget(member.node)
                if member.state not in GONE:
                    self.set_state(member, "left", now)
                for other in self.all():
                    other.evidence.pop(member.node, None)
                    other.accusations.pop(member.node, None)
