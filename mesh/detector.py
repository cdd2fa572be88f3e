"""The failure detector: probe, ask relays and knock at TCP meanwhile, then accuse (SWIM section 3.1, Lifeguard, DESIGN section 3.2)."""

from collections.abc import Callable

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.awareness import Awareness
from cloudisense.mesh.context import Context
from cloudisense.mesh.effects import Address
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.probe import Probe, Prober
from cloudisense.mesh.wire import Ack, Nack, Ping, PingRequest

UNHEARD = 2
"""How much worse we are than we thought when no relay says in time that it runs: Lifeguard adds one for each of them."""


class Detector:
    """Probes members in turn. ``digest`` rides on every ping and ack; ``compare`` is told what a peer's was."""

    def __init__(
        self, context: Context, membership: Membership, digest: Callable[[], bytes], compare: Callable[[bytes, bytes, Instant], None]
    ) -> None:
        self.awareness = Awareness(context.limits.awareness_max)
        self._digest = digest
        self._compare = compare
        self._context = context
        self._membership = membership
        self._out = context.out
        self._limits = context.limits
        self._prober = Prober(context.rng)
        self._lost_turn = 0
        self._sought = 0
        self._seek_until_ns = 0
        membership.confirm = self.confirm

    def start(self, now: Instant) -> None:
        """Begin, at a moment of our own within the period."""
        self._out.after("probe", now, self._context.rng.randrange(self._limits.probe_interval_ms))
        self._seek_until_ns = now.boot_ns + self._limits.lost_eager_ms * NS_PER_MS
        self.seek(now)

    def seek(self, now: Instant) -> None:
        """Alone since the start: greet one seed after the other, all nodes in the same order, so that a fleet meets at one of them."""
        seeds = [seed for seed in self._context.stored.seeds if seed != self._context.stored.address]
        if not self._membership.present() and seeds and now.boot_ns < self._seek_until_ns:
            self._membership.greet(seeds[self._sought % len(seeds)])
            self._sought += 1
            self._out.after("seek", now, self._limits.seek_ms)

    # -- the period ----------------------------------------------------------------------------------------------------

    def period(self, now: Instant) -> None:
        """One protocol period: probe one member, try one that was lost."""
        self._out.after("probe", now, self._limits.probe_interval_ms)
        self._probe_next(now)
        self._greet_lost(now)

    def _probe_next(self, now: Instant) -> None:
        target = self._prober.next_target(self._membership.probed())
        if target is not None:
            self._probe(target, now)

    def confirm(self, node: bytes, now: Instant) -> None:
        """Another accuses ``node``: see for ourselves, at once."""
        if not self._prober.probing(node):
            self._probe(node, now)

    def nod(self, node: bytes) -> None:
        """Let ``node`` hear us, and our digest. No probe: its silence means nothing."""
        self._membership.send(node, Ping(0, self._digest(), ()))

    def _probe(self, node: bytes, now: Instant) -> None:
        self._ping(self._prober.start(node, self._membership.members[node].alive.incarnation), now)

    def _ping(self, probe: Probe, now: Instant) -> None:
        # Buddy system (Lifeguard section IV-C): who is suspected hears of it with the very next ping.
        accusations = self._membership.accusations(self._membership.members[probe.target])
        self._membership.send(probe.target, Ping(probe.sequence, self._digest(), accusations + self._membership.ride_along(accusations)))
        # A relay's nack has to be back in the asker's time, however ill the relay is: it says only that the relay runs.
        wait_ms = self._limits.probe_timeout_ms
        self._out.after(("probe", probe.sequence), now, wait_ms if probe.relayed_for else self.awareness.scale(wait_ms))

    def _greet_lost(self, now: Instant) -> None:
        """Heal forever: one lost member, or one silent seed, per period; after ten minutes with more patience."""
        stored = self._context.stored
        due = [m for m in self._membership.lost() if self._is_due(m.lost_ns, m.tried_ns, now)]
        known = self._membership.addresses() if stored.seeds else ()
        seeds = [seed for seed in stored.seeds if seed not in known and seed != stored.address]
        places: list[tuple[Address, bytes]] = [*((m.address, m.node) for m in due), *((seed, b"") for seed in seeds)]
        if not places:
            return
        self._lost_turn += 1
        address, node = places[self._lost_turn % len(places)]
        if node:
            self._membership.members[node].tried_ns = now.boot_ns
        self._membership.greet(address, node)

    def _is_due(self, lost_ns: int, tried_ns: int, now: Instant) -> bool:
        eager = now.boot_ns - lost_ns < self._limits.lost_eager_ms * NS_PER_MS
        return eager or now.boot_ns - tried_ns >= self._limits.lost_patient_ms * NS_PER_MS

    # -- messages ------------------------------------------------------------------------------------------------------

    def ping(self, peer: bytes, message: Ping, now: Instant) -> None:
        """A peer probes us."""
        self._membership.take_claims(message.claims, now)
        self._compare(peer, message.digest, now)
        # Each ride counts as one telling of the news: who pings without end must not use it all up.
        ride = self._out.once(("ride", peer), now, self._limits.gossip_interval_ms)
        self._membership.send(peer, Ack(message.sequence, self._digest(), self._membership.ride_along() if ride else ()))

    def ack(self, peer: bytes, message: Ack, now: Instant) -> None:
        """A probe of ours, or one that we relay, was answered."""
        self._membership.take_claims(message.claims, now)
        probe = self._prober.answered(message.sequence, peer)
        if probe is None:
            return
        self._out.timers.cancel(("probe", probe.sequence))
        if probe.relayed_for is not None:
            asker, theirs = probe.relayed_for
            if asker in self._membership.members:
                self._membership.send(asker, Ack(theirs, self._digest(), ()))
        elif probe.asked is None:
            self.awareness.better()
        self._compare(peer, message.digest, now)

    def nack(self, peer: bytes, message: Nack, now: Instant) -> None:
        """A relay is well, but did not reach the target: so our own side works."""
        if (probe := self._prober.open.get(message.sequence)) is not None and peer in (probe.asked or ()):
            probe.nacks.add(peer)

    def relay(self, asker: bytes, request: PingRequest, now: Instant) -> None:
        """Probe a member on behalf of another."""
        target = self._membership.members.get(request.target)
        relayed = [probe.relayed_for[0] for probe in self._prober.open.values() if probe.relayed_for is not None]
        if relayed.count(asker) >= self._limits.relayed_probes_asker:
            raise RemoteProtocolError("relays too many probes", asker)
        if target is not None and len(self._prober.open) < self._limits.relayed_probes:
            self._ping(self._prober.start(request.target, target.alive.incarnation, (asker, request.sequence)), now)

    # -- silence -------------------------------------------------------------------------------------------------------

    def probe_late(self, sequence: int, now: Instant) -> None:
        """No ack in time: ask relays and knock; after those, accuse."""
        probe = self._prober.open.get(sequence)
        if probe is None:
            return
        if probe.relayed_for is not None:
            asker, theirs = probe.relayed_for
            del self._prober.open[sequence]
            if asker in self._membership.members:
                self._membership.send(asker, Nack(theirs))
        elif probe.asked is None:
            self._ask_around(probe, now)
        else:
            del self._prober.open[sequence]
            self._failed(probe, now)

    def _ask_around(self, probe: Probe, now: Instant) -> None:
        member = self._membership.members.get(probe.target)
        if member is None:
            del self._prober.open[probe.sequence]
            return
        # Whom nobody suspects: in a cut the others would not answer, and their silence would count as our own illness.
        relays = [m.node for m in self._membership.all() if m.state == "alive" and m.node != probe.target]
        probe.asked = tuple(self._context.choose(relays, self._limits.indirect_probes))
        for relay in probe.asked:
            self._membership.send(relay, PingRequest(probe.sequence, probe.target))

        def knocked(met: str, later: Instant) -> None:
            probe.knock = met

        self._out.knock(probe.target, member.address, knocked)
        self._out.after(("probe", probe.sequence), now, self.awareness.scale(self._limits.indirect_timeout_ms))

    def _failed(self, probe: Probe, now: Instant) -> None:
        member = self._membership.members.get(probe.target)
        if member is None or member.alive.incarnation != probe.incarnation:
            return
        if member.present and not probe.nacks:
            # One relay's word in time speaks for us: in a cut the others are silent because they are beyond it.
            self.awareness.worse(UNHEARD)
        if probe.knock == "spoke":
            # It is well, and reachable: what is lost are datagrams between us, or all that it knew of us (a hello mends that).
            self._membership.greet(member.address, member.node)
            return
        doubtful = member.present
        self._membership.accuse(member, probe.knock or "silent", now)
        # Once a while: where all are slow, each failure would bring three more, and each of those a TLS handshake.
        if doubtful and self._out.once("hurry", now, self._limits.probe_interval_ms):
            self._hurry(probe, now)

    def _hurry(self, failed: Probe, now: Instant) -> None:
        """Where one is silent, others may be, first of all the relays that gave no sign."""
        silent = [node for node in failed.asked or () if node not in failed.nacks]
        for node in silent:
            if (member := self._membership.members.get(node)) is not None and member.state == "alive":
                self.confirm(node, now)
        for _ in range(self._limits.hurried_probes - len(silent)):
            self._probe_next(now)

    def refused(self, address: Address, now: Instant) -> None:
        """The kernel says that nobody listens at ``address``: check by TCP, then say so; every accuser does this for itself."""
        for member in self._membership.all():
            if member.address == address and member.present and self._out.once(("knock", member.node), now, self._limits.knock_ms):
                incarnation = member.alive.incarnation

                def knocked(met: str, later: Instant, node: bytes = member.node, incarnation: int = incarnation) -> None:
                    known = self._membership.members.get(node)
                    if met == "refused" and known is not None and known.alive.incarnation == incarnation:
                        self._membership.accuse(known, "refused", later)

                self._out.knock(member.node, address, knocked)

    def thaw(self, now: Instant) -> None:
        """Our timers come far too late: we were frozen or suspended, and what we waited for proves nothing."""
        for sequence in sorted(self._prober.open):
            self._out.timers.cancel(("probe", sequence))
        self._prober.open.clear()
        self.awareness.worse(2)
        self._membership.postpone(now)
