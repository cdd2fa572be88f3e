"""The mesh of one node, without I/O: datagrams, bulk messages and timers in; effects and news out.

The shell (or the simulator) calls the ``handle_*`` methods with the time, then carries out ``poll_effects()``; the agent reads
``poll_news()``. Junk from outside ends in ``dropped``, never in an exception.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

from cloudisense.keys.certificate import read_certificate
from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.given import Rng
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Roster
from cloudisense.keys.session import SessionKey, Sessions, is_sealed
from cloudisense.mesh.context import Context
from cloudisense.mesh.delivery import Delivery
from cloudisense.mesh.detector import Detector
from cloudisense.mesh.effects import Address
from cloudisense.mesh.events import DirectReceived, Knocked, MemberChanged, Persisted, PortRefused, SendFailed
from cloudisense.mesh.feed import Entry, Feeds, Reference
from cloudisense.mesh.fork import Forgers
from cloudisense.mesh.hello import AMPLIFICATION, PREFIX, Greeter, HelloLimiter
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import Member
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.outbound import Effect, News, Outbound
from cloudisense.mesh.pruning import Pruner
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.throttle import Throttle
from cloudisense.mesh.trust import Trust
from cloudisense.mesh.wire import (
    Ack,
    Bundles,
    Claims,
    Cosigned,
    Direct,
    Forks,
    Got,
    Message,
    Nack,
    Ping,
    PingRequest,
    Propose,
    Push,
    PushPull,
    Relay,
    Rosters,
    decode,
)

FORGERIES = ("malformed", "bad signature", "claim in another's name", "roster is not signed by enough roots")
"""Beginnings of the reasons that an honest member never gives: it checks what it passes on."""

Event = Persisted | Knocked | PortRefused | SendFailed


class Mesh:
    """One node's membership, feeds and delivery, behind the five-method seam of DESIGN section 2."""

    def __init__(
        self,
        identity: Identity,
        certificate: bytes,
        roster: tuple[bytes, ...],
        limits: Limits,
        rng: Rng,
        stored: Stored,
        sessions: type[Sessions] = Sessions,
    ) -> None:
        self._trust = Trust(roster, stored.rival)
        self.mesh_id = self._trust.mesh_id
        self.id = identity.id
        self.name = stored.name
        self._limits = limits
        session_key = SessionKey.generate(rng)
        self._sessions = sessions(identity.id, self.mesh_id, session_key)
        self._greeter = Greeter(identity, self.mesh_id, rng.randbytes(32), limits)
        self._limiter = HelloLimiter(limits)
        self._out = Outbound(self._sessions, limits)
        self._roles = read_certificate(certificate).roles
        self._messages = Throttle(limits.messages_s, limits.messages_burst, limits.members)
        self._forgeries = Throttle(limits.forgeries_s, limits.forgeries_burst, limits.members)
        self._pulls = Throttle(limits.pulls_s, limits.pulls_burst, limits.members)
        context = Context(identity, certificate, self._trust, session_key, self._sessions, self._greeter, self._out, limits, rng, stored)
        self._context = context
        self._membership = membership = Membership(context)
        self._delivery = delivery = Delivery(context, membership)
        self._detector = detector = Detector(context, membership, delivery.digest, delivery.compare)
        self._handlers: dict[type[Message], Callable[[bytes, Any, Instant], object]] = {
            Ping: detector.ping,
            Ack: detector.ack,
            PingRequest: detector.relay,
            Nack: detector.nack,
            Claims: lambda peer, message, now: membership.take_claims(message.claims, now),
            Push: delivery.pushed,
            Relay: delivery.relay,
            Got: lambda peer, message, now: delivery.got(peer, message),
            PushPull: lambda peer, message, now: delivery.pulled(peer, message),
            Rosters: lambda peer, message, now: delivery.rosters(peer, message.chain, now),
            Propose: delivery.pruner.proposed,
            Cosigned: delivery.pruner.cosigned,
            Bundles: lambda peer, message, now: delivery.pruner.take(message, now),
            Forks: lambda peer, message, now: delivery.forgers.take(message, now),
            Direct: lambda peer, message, now: self._out.tell(DirectReceived(peer, message.body)),
        }
        self._timers: dict[str, Callable[[Instant], object]] = {
            "probe": self._period,
            "seek": detector.seek,
            "greet": lambda now: membership.greet_unmet(),
            "gossip": membership.gossip,
            "refute": lambda now: membership.refute_owed(),
            "rekey": self._rekey,
            "gather": delivery.gather.flush,
            "rows": lambda now: membership.rows.flush(),
            "checkpoint": delivery.pruner.propose,
        }
        membership.repair = lambda peer: delivery.push_pull(peer, reply=True)
        self._stored_revocations = stored.revocations
        for data in stored.entries:
            self._guarded(lambda data=data: delivery.feeds.load(data))

    # -- the seam ------------------------------------------------------------------------------------------------------

    def start(self, now: Instant) -> None:
        """Restore known members, greet seeds, start probing."""
        self._out.seen(now)
        self._recall(now)
        self._membership.start(now)
        self._detector.start(now)
        self._next_key(now)
        self._delivery.pruner.start(now)

    def handle_datagram(self, data: bytes, source: Address, now: Instant) -> None:
        """One datagram as it came from the socket."""
        self._out.seen(now)
        self._guarded(lambda: self._datagram(data, source, now))

    def handle_bulk(self, peer: bytes, data: bytes, now: Instant) -> None:
        """One message over TLS from ``peer``, whom the handshake proved to be a member."""
        self._out.seen(now)
        self._guarded(lambda: self._charged(peer, data, now, self._limits.bulk_bytes))

    def handle_timer(self, now: Instant) -> None:
        """Do whatever is due."""
        self._out.seen(now)
        due_ns = self._out.timers.next()
        if due_ns is not None and now.boot_ns - due_ns > self._limits.frozen_ms * NS_PER_MS:
            self._detector.thaw(now)
        while (name := self._out.timers.pop_due(now.boot_ns)) is not None:
            self._timer(name, now)

    def handle_event(self, event: Event, now: Instant) -> None:
        """The world answers, or the kernel has something to say about an address."""
        self._out.seen(now)
        match event:
            case Persisted(token):
                self._out.persisted(token, now)
            case Knocked(token, met):
                self._out.knocked(token, met, now)
            case PortRefused(address):
                self._detector.refused(address, now)
            case SendFailed():
                self._detector.awareness.worse()

    def next_deadline(self) -> int | None:
        """When to call ``handle_timer`` next, in boot-time nanoseconds."""
        return self._out.timers.next()

    def poll_effects(self) -> list[Effect]:
        """What the world has to do now, in order."""
        return self._out.poll_effects()

    def poll_news(self) -> list[News]:
        """What happened, for the layer above, in order."""
        news = self._out.poll_news()
        for item in news:
            if isinstance(item, MemberChanged) and not self.members[item.node].present:
                self._delivery.give_up_on(item.node)
        return news + self._out.poll_news()

    # -- for the layer above -------------------------------------------------------------------------------------------

    @property
    def members(self) -> dict[bytes, Member]:
        """Every other node ever heard of."""
        return self._membership.members

    @property
    def roster(self) -> Roster:
        """The newest roster known here."""
        return self._trust.roster

    @property
    def roster_chain(self) -> tuple[bytes, ...]:
        """All signed rosters, oldest first."""
        return self._trust.chain

    def take_rosters(self, chain: tuple[bytes, ...], now: Instant) -> bool:
        """The operator has a new roster; true when it is newer than ours. Raises ``RemoteProtocolError``."""
        return self._delivery.take_rosters(chain, now)

    @property
    def trust_version(self) -> int:
        """Rises whenever ``roster`` changes, by a new one or by a quick revocation that begins or ends."""
        return self._trust.version

    def revoke(self, claim: bytes, now: Instant) -> bool:
        """An operator's quick revocation, or a succession; true when it is new. Raises ``RemoteProtocolError``."""
        return self._membership.revoke(claim, now)

    @property
    def replaced(self) -> tuple[tuple[bytes, bytes], ...]:
        """(key, its successor) of the keys that were replaced and are not in a roster's list of the revoked yet."""
        return self._trust.revocations.replaced()

    def renewed(self, certificate: bytes, leaf: bytes) -> None:
        """Our certificate and TLS leaf are new ones, of the same key and name."""
        self._membership.renewed(certificate, leaf)

    @property
    def cloned(self) -> bool:
        """Does another host run with our key?"""
        return self._membership.cloned

    @property
    def rival_rosters(self) -> bool:
        """Did the root sign two rosters beside each other, and has nobody upheld one of them yet?"""
        return bool(self._trust.rival)

    @property
    def behind(self) -> bool:
        """Do others hold a newer roster than this node can prove? Then it must not act for them, nor they for it."""
        return self._trust.behind(self._membership.present())

    @property
    def incarnation(self) -> int:
        """Our own."""
        return self._membership.incarnation

    @property
    def feeds(self) -> Feeds:
        """All feeds held here."""
        return self._delivery.feeds

    @property
    def pruner(self) -> Pruner:
        """Checkpoints; ``unfinished`` is for the layer above to set."""
        return self._delivery.pruner

    @property
    def forgers(self) -> Forgers:
        """Who is proven to have forked its feed: believe nothing of it."""
        return self._delivery.forgers

    @property
    def dropped(self) -> Counter[str]:
        """What was refused, counted by reason."""
        return self._out.dropped

    def present(self) -> list[bytes]:
        """Members that are counted on, sorted, without ourselves."""
        return self._membership.present()

    def roles_of(self, node: bytes) -> tuple[str, ...] | None:
        """The roles that an issuer gave it; ``None`` for nobody that we know."""
        if node == self.id:
            return self._roles
        member = self.members.get(node)
        return member.certificate.roles if member is not None else None

    def append(self, kind: str, body: bytes, now: Instant) -> Entry:
        """Add an entry to our own feed; it is news here, and goes out, only once it is durable."""
        return self._delivery.append(kind, body, now)

    def send_direct(self, peer: bytes, body: bytes) -> None:
        """Send ``body`` to one member, best effort."""
        if peer in self.members:
            self._membership.send(peer, Direct(body))

    def greet(self, address: Address) -> None:
        """Somebody of this mesh may be at ``address``: find out."""
        self._membership.greet(address)

    def forget(self, claim: bytes, now: Instant) -> None:
        """An operator's signed ``Forgotten``. Raises ``RemoteProtocolError``."""
        self._membership.take_claim((claim, b""), now)
        self._membership.tell_all((claim, b""))

    def restart(self) -> None:
        """Say that only the agent stops, and only for a moment."""
        self._membership.restart()

    def leave(self) -> None:
        """Say goodbye to everyone; the caller keeps running a moment so that it is heard."""
        self._membership.leave()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _recall(self, now: Instant) -> None:
        """Quick revocations of our own store; one whose operator has gone since then counts for nothing."""
        for claim in self._stored_revocations:
            try:
                self._trust.revoke(claim, now)
            except RemoteProtocolError as error:
                self.dropped[error.reason] += 1
        self._trust.refresh(now)

    def _guarded(self, handler: Callable[[], object]) -> None:
        try:
            handler()
        except RemoteProtocolError as error:
            self.dropped[error.reason] += 1

    def _datagram(self, data: bytes, source: Address, now: Instant) -> None:
        if data[: len(PREFIX)] == PREFIX:
            self._hello(data, source, now)
            return
        if not is_sealed(data):
            raise RemoteProtocolError("malformed datagram")
        try:
            peer, message = self._sessions.open(data, now)
        except RemoteProtocolError as error:
            # Whoever it is knows us from an earlier boot, or is not known to us yet: a hello mends both, one for a whole volley.
            stranger = error.reason in ("unknown key", "for another key")
            volley_ms = self._limits.gossip_interval_ms
            if stranger and self._out.once(("stranger", source), now, volley_ms) and self._limiter.allow(source[0], now):
                self._answer(source, b"", b"", len(data))
            raise
        self._charged(peer, message, now, self._limits.datagram_bytes)

    def _hello(self, data: bytes, source: Address, now: Instant) -> None:
        if not self._limiter.allow(source[0], now):
            raise RemoteProtocolError("hello throttled")
        hello = self._greeter.read(data)
        own = self._membership
        if not hello.echo:
            if hello.to in (b"", self.id):
                self._answer(source, self._greeter.claimed_signer(data), hello.token, len(data))
            return
        signer, hello = self._greeter.proven(data, source)
        if own.shut_out(signer):
            raise RemoteProtocolError("revoked key", signer)
        if own.check_alive(hello.claim).node != signer:
            raise RemoteProtocolError("hello with a stranger's claim")
        before = own.members.get(signer)
        known = before.alive.incarnation if before is not None else 0
        own.take_claim((hello.claim, hello.certificate), now)
        if signer not in self.members or not self._sessions.knows(signer):  # the latter: revoked
            raise RemoteProtocolError("hello of a stranger")
        # A hello can be replayed while its token is good, so it brings claims and keys, and is no sign of life: the sealed
        # push-pull that follows is.
        held = self.members[signer]
        if held.claim != hello.claim:
            # It forgot what it claimed before (its state was restored), and has another session key now: tell it by TLS.
            self._out.send_bulk(signer, source, Claims(((held.claim, held.certificate_data),)))
        if known == 0:
            # Who was known before greets all that it knows itself; of one that is new, we may be the first to hear.
            own.tell_all((hello.claim, hello.certificate), but=signer)
        if hello.token:
            to = self._greeter.hello(own.claim, self._context.certificate, source, signer, hello.token, ask=False)
            self._out.send_clear(source, to)
            if self._out.once("acquaint", now, self._limits.acquaint_ms):
                self._delivery.push_pull(signer, reply=True)
            else:
                self._detector.nod(signer)  # many meet us at once: one of them tells what there is to know

    def _answer(self, source: Address, to: bytes, echo: bytes, size: int) -> None:
        """A hello to an address that proved nothing: in proportion to what came in, or to where a member said that it is."""
        hello = self._greeter.hello(self._membership.claim, self._context.certificate, source, to, echo, ask=True)
        if len(hello) > AMPLIFICATION * size and all(member.address != source for member in self.members.values()):
            raise RemoteProtocolError("too short for an answer")
        self._out.send_clear(source, hello)

    def _charged(self, peer: bytes, data: bytes, now: Instant, limit: int) -> None:
        """Handle a message; what it holds that no honest member passes on is charged to who brought it."""
        before = self._forged()
        try:
            self._message(peer, data, now, limit)
        except RemoteProtocolError as error:
            self._forgeries.charge(peer, _is_forgery(error.reason), now)
            raise
        finally:
            if (cost := self._forged() - before) > 0:
                self._forgeries.charge(peer, cost, now)

    def _forged(self) -> int:
        return sum(count for reason, count in self.dropped.items() if _is_forgery(reason))

    def _message(self, peer: bytes, data: bytes, now: Instant, limit: int) -> None:
        if peer == self.id or self._membership.shut_out(peer):
            raise RemoteProtocolError("revoked key", peer)
        if not self._messages.take(peer, now):
            raise RemoteProtocolError("too many messages", peer)
        message = decode(data, limit) if self._forgeries.has(peer, now) else _harmless(decode(data, limit))
        if isinstance(message, PushPull):
            if not self._pulls.take(peer, now):
                raise RemoteProtocolError("asks too often", peer)
            self._membership.take_claims(message.claims, now)
        if peer not in self.members:
            raise RemoteProtocolError("not a member yet", peer)
        self._membership.heard_from(peer, now)
        if isinstance(message, Direct) and peer in self._delivery.forgers:
            raise RemoteProtocolError("message of a forger", peer)
        self._handlers[type(message)](peer, message, now)

    def _next_key(self, now: Instant) -> None:
        """Not with the others: a pair that changes both its keys at the same moment has to greet anew."""
        rekey_ms = self._limits.rekey_ms
        self._out.after("rekey", now, rekey_ms + self._context.rng.randrange(rekey_ms // 10 + 1))

    def _period(self, now: Instant) -> None:
        self._membership.refresh(now)
        self._detector.period(now)

    def _rekey(self, now: Instant) -> None:
        self._membership.rekey()
        self._next_key(now)

    def _timer(self, name: object, now: Instant) -> None:
        if isinstance(name, str) and name in self._timers:
            self._timers[name](now)
            return
        match name:
            case ("probe", int(sequence)):
                self._detector.probe_late(sequence, now)
            case ("suspicion", bytes(node)):
                self._membership.suspicion_over(node, now)
            case ("push", Reference() as reference):
                self._delivery.push(reference, now)
            case _:
                raise LocalProtocolError(f"unknown timer {name!r}")


def _is_forgery(reason: str) -> bool:
    return reason.startswith(FORGERIES)


def _harmless(message: Message) -> Message:
    """What may still come from a member that brought forgeries: probes and their answers, so that nobody thinks it dead."""
    match message:
        case Ping(sequence, digest, _):
            return Ping(sequence, digest, ())
        case Ack(sequence, digest, _):
            return Ack(sequence, digest, ())
        case Nack():
            return message
        case _:
            raise RemoteProtocolError("throttled")
