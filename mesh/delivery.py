"""Feeds on their way: durable first, then out at once, acknowledged, and repaired by digest (DESIGN section 3.2).

A small mesh is told directly, every member, and every member answers. In a large one the ids are cut into slices of about
sqrt(n), and two relays pass the entry on to each slice; what both lose, the digests bring.
"""

import math

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.context import Context
from cloudisense.mesh.dissemination import Outbox, Shipment
from cloudisense.mesh.effects import Put
from cloudisense.mesh.events import EntryArrived, EntryDelivered, Misbehaved, RosterChanged, RosterRival
from cloudisense.mesh.feed import Entry, Feeds, OverQuota, Reference, parse_entry
from cloudisense.mesh.fork import Forgers
from cloudisense.mesh.gather import Gather, batches
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.member import GONE
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.pruning import Pruner, entry_row
from cloudisense.mesh.table import count_hash, head_hash
from cloudisense.mesh.trust import RIVAL, Trust, roster_hash
from cloudisense.mesh.wire import Bundles, Claims, Forks, Got, Push, PushPull, Relay, Rosters, SignedClaim

RELAYS_PER_SLICE = 2
GENERATION_BITS = 20
ITEMS_PER_MESSAGE = 8
CLAIMS_BY_DATAGRAM_BYTES = 40_000
RIVAL_MS = 60_000
"""A peer on a rival branch is told of ours so often at most."""
TIPS = 32
"""Sent to who holds as many entries as we do."""
SLICE_SLACK = 4
"""How much larger than ours another's idea of a slice may be: it may know members that we do not, and the reverse."""


class Delivery:
    """Appends, spreads, receives and repairs feed entries for one node, and brings claims and rosters along."""

    def __init__(self, context: Context, membership: Membership) -> None:
        self.feeds = Feeds(context.mesh_id, context.limits)
        self._context = context
        self._membership = membership
        self._out = context.out
        self._limits = context.limits
        self._outbox = Outbox()
        self.generation = self._generation_of(context.stored.boot)
        self.forgers = Forgers(context, membership, self.feeds)
        self.pruner = Pruner(context, membership, self.feeds, self.forgers)
        self.pruner.adopted = self._adopted
        self.gather = Gather(membership, context.out, context.limits)
        self._over_quota: set[bytes] = set()
        self._tip = 0

    def _generation_of(self, boot: int) -> int:
        """Random below the boot counter: a restored snapshot counts a boot twice, and must not write into the other one's feed."""
        return (boot << GENERATION_BITS) | self._context.rng.randrange(1 << GENERATION_BITS)

    # -- our own entries -----------------------------------------------------------------------------------------------

    def append(self, kind: str, body: bytes, now: Instant) -> Entry:
        """Add to our own feed; it is news here, and leaves, only once it is durable. Raises ``OverQuota``."""
        try:
            entry = self.feeds.append(self._context.identity, self.generation, now.wall_ms, kind, body)
        except OverQuota:
            self._out.dropped["own entry over quota"] += 1
            self._tell_over_quota(self._context.id)
            raise
        self._out.persist((entry_row(entry, now),), lambda later: self._publish(entry, later))
        return entry

    def _publish(self, entry: Entry, now: Instant) -> None:
        self.feeds.made_durable([entry])
        self._out.tell(EntryArrived(entry))
        if self._context.id in self.forgers:
            return
        present = self._membership.present()
        slices = self._slices(present)
        waiting = {relay for _, _, relays in slices for relay in relays} if slices else set(present)
        if not waiting:
            self._out.tell(EntryDelivered(entry.reference))
            return
        for given_up in self._outbox.make_room(self._limits.outbox):
            self._out.timers.cancel(("push", given_up))
        self._outbox.open[entry.reference] = Shipment(entry.data, waiting, slices=slices)
        self.push(entry.reference, now)

    def _slices(self, present: list[bytes]) -> list[tuple[bytes, bytes, list[bytes]]]:
        """(first, last, relays) of each slice of a large mesh; none in a small one."""
        if len(present) <= self._limits.small:
            return []
        width = math.ceil(math.sqrt(len(present)))
        slices = [present[i : i + width] for i in range(0, len(present), width)]
        return [(nodes[0], nodes[-1], self._context.choose(nodes, RELAYS_PER_SLICE)) for nodes in slices]

    def push(self, reference: Reference, now: Instant) -> None:
        """Send to all who have not acknowledged; the digests take over after the last attempt."""
        shipment = self._outbox.open.get(reference)
        if shipment is None:
            return
        for first, last, relays in shipment.slices:
            for relay in relays:
                if relay in shipment.waiting:
                    self._membership.send(relay, Relay((shipment.data,), first, last))
        if not shipment.slices:
            for node in sorted(shipment.waiting):
                # A member that lags is not pressed with all that it lacks: the digests bring the rest when it can.
                if not shipment.attempts or self._outbox.presses(node, reference, self._limits.retried_per_peer):
                    self.gather.push(node, reference, shipment.data)
            self.gather.settle(now)
        shipment.attempts += 1
        if shipment.attempts < self._limits.push_attempts:
            self._out.after(("push", reference), now, self._limits.push_retry_ms << (shipment.attempts - 1))

    def got(self, peer: bytes, message: Got) -> None:
        """``peer`` holds these durably."""
        for node, generation, number in message.references:
            reference = Reference(node, generation, number)
            if self._outbox.acknowledge(reference, peer):
                self._out.timers.cancel(("push", reference))
                self._out.tell(EntryDelivered(reference))

    def give_up_on(self, node: bytes) -> None:
        """Nothing more is to be waited for from ``node``: entries that only it lacked are delivered."""
        self._out.tell(*(EntryDelivered(reference) for reference in self._outbox.give_up_on(node)))

    # -- entries of others ---------------------------------------------------------------------------------------------

    def pushed(self, peer: bytes, message: Push, now: Instant) -> None:
        """Entries came in; a bad one costs only itself."""
        fresh: list[Entry] = []
        known: list[Entry] = []
        for data in message.entries:
            try:
                self._take(peer, data, fresh, known, now)
            except RemoteProtocolError as error:
                self._out.dropped[error.reason] += 1
        if known and message.answer:
            self._acknowledge(known, now)
        if fresh:
            self._tell(fresh)
            rows = tuple(entry_row(entry, now) for entry in fresh)
            self._out.persist(rows, lambda later: self._kept(fresh, message.answer, later))

    def relay(self, peer: bytes, message: Relay, now: Instant) -> None:
        """Keep entries and pass them on to our slice, the first time that we see them.

        One message makes us send many, so only what a member says itself goes through, once, and to no more than a slice.
        """
        fresh = tuple(data for data in message.entries if self._is_news_of(peer, data))
        present = self._membership.present()
        slice_ = [node for node in present if message.first <= node <= message.last and node != peer]
        if len(slice_) > SLICE_SLACK * math.ceil(math.sqrt(len(present) + 1)):
            raise RemoteProtocolError("relay to too many", peer)
        for node in slice_ if fresh else ():
            self._membership.send(node, Push(fresh, answer=False))
        self.pushed(peer, Push(message.entries, answer=True), now)

    def _is_news_of(self, peer: bytes, data: bytes) -> bool:
        entry, _ = parse_entry(data, self._context.mesh_id, self._limits.entry_bytes)
        return entry.node == peer and self.feeds.wanted(entry.reference)

    def _take(self, peer: bytes, data: bytes, fresh: list[Entry], known: list[Entry], now: Instant) -> None:
        entry, previous = parse_entry(data, self._context.mesh_id, self._limits.entry_bytes)
        reference = entry.reference
        if entry.node in self.forgers:
            raise RemoteProtocolError("entry of a forger", entry.node)
        if entry.node == self._context.id:
            self._heard_ourselves(entry)
        else:
            author = self._membership.members.get(entry.node)
            if author is None or self._membership.shut_out(entry.node) or "member" not in author.certificate.roles:
                raise RemoteProtocolError("entry of a stranger", peer)
        held = self.feeds.get(reference)
        if held is not None and held.hash != entry.hash:
            self.forgers.caught((held.data, data), now)
            raise RemoteProtocolError("forked feed", entry.node)
        if self.feeds.is_durable(reference):
            known.append(entry)
        elif held is None:
            fresh += self._accept(peer, entry, previous, now)
        # Otherwise its write is under way; the acknowledgement follows it.

    def _accept(self, peer: bytes, entry: Entry, previous: bytes, now: Instant) -> list[Entry]:
        if self.feeds.crowded(entry.reference):
            raise RemoteProtocolError("too many orphans", entry.node)
        try:
            accepted = self.feeds.accept(entry, previous)
        except RemoteProtocolError as error:
            before = self.feeds.get(Reference(entry.node, entry.reference.generation, entry.reference.number - 1))
            if error.reason == "broken chain" and before is not None:
                self.forgers.caught((before.data, entry.data), now)
            elif error.reason == "over quota":
                self._tell_over_quota(entry.node)
            raise
        if not accepted and self._out.once(("pull", peer), now, self._limits.push_retry_ms):
            # Its predecessor is missing here: ask now rather than at the next digest.
            self.push_pull(peer, reply=True)
        return accepted

    def _tell_over_quota(self, node: bytes) -> None:
        if node not in self._over_quota:
            self._over_quota.add(node)
            self._out.tell(Misbehaved(node, "over quota"))

    def _heard_ourselves(self, entry: Entry) -> None:
        """Peers hold what we said and forgot: our state was restored from an older copy. Go on in a generation above it."""
        held = self.feeds.get(entry.reference)
        if entry.reference.generation >= self.generation and (held is None or held.hash != entry.hash):
            boot = (entry.reference.generation >> GENERATION_BITS) + 1
            self.generation = self._generation_of(boot)
            self._out.persist((Put("meta", {"key": "boot", "value": boot.to_bytes(8, "big")}),))

    def _tell(self, entries: list[Entry]) -> None:
        """News at once: writes keep their order, so nothing that follows from an entry is ever on disk without it.

        What we said ourselves, and forgot, is history: nothing follows from it now. A forger is not believed.
        """
        self._out.tell(*(EntryArrived(entry) for entry in entries if entry.node != self._context.id and entry.node not in self.forgers))

    def _adopted(self, entries: list[Entry], now: Instant) -> None:
        self._tell(entries)
        self._kept(entries, False, now)

    def _kept(self, entries: list[Entry], answer: bool, now: Instant) -> None:
        self.feeds.made_durable(entries)
        if answer:
            self._acknowledge(entries, now)

    def _acknowledge(self, entries: list[Entry], now: Instant) -> None:
        """Tell the authors, by whichever way the entries came."""
        for entry in entries:
            if entry.node in self._membership.members:
                self.gather.got(entry.node, (entry.node, entry.reference.generation, entry.reference.number))
        self.gather.settle(now)

    # -- repair --------------------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """Eight bytes over all that is known: entries, members' incarnations, rosters."""
        own = head_hash(self._context.id, self._membership.incarnation, False)
        total = self.feeds.durable_sum + self._membership.known_sum + own + count_hash(len(self._context.trust.chain))
        total += self._context.trust.revocations.sum() + self.forgers.known_sum
        # Who came later, or restarted since, holds nothing of a revoked key, and is to agree with who does.
        revoked = self._context.trust.roster.revoked
        total -= sum(self.feeds.sum_of(node) + self._membership.sum_of(node) + self.forgers.sum_of(node) for node in revoked)
        return (total % (1 << 64)).to_bytes(8, "big")

    def compare(self, peer: bytes, digest: bytes, now: Instant) -> None:
        """A peer's digest; a mismatch that lasts starts a push-pull."""
        member = self._membership.members.get(peer)
        if member is None:
            return
        if digest == self.digest():
            member.mismatches = 0
            # It holds on disk all that we do: whatever of ours it has not acknowledged, its acknowledgement was lost.
            self.give_up_on(peer)
            return
        member.mismatches += 1
        limits = self._limits
        if member.mismatches < limits.digest_mismatches:
            return
        # While much is new all digests differ: one exchange at a time brings it.
        if self._out.once("exchange", now, limits.acquaint_ms) and self._out.once(("pull", peer), now, limits.probe_interval_ms):
            member.mismatches = 0
            self.push_pull(peer, reply=True)

    def push_pull(self, peer: bytes, reply: bool) -> None:
        """Tell ``peer`` in brief all that we know; it sends what we lack, and the same in return if ``reply``."""
        membership = self._membership
        heads = tuple((m.node, m.alive.incarnation, m.state in GONE) for m in membership.all())
        trust = self._context.trust
        own = ((membership.claim, self._context.certificate), *((claim, b"") for claim in trust.revocations.claims()))
        bases, forgers = self.pruner.bases(), tuple(sorted(self.forgers.proofs))
        message = PushPull(own, heads, self.feeds.vector(), len(trust.chain), reply, _newest(trust), bases, forgers)
        membership.send(peer, message)

    def pulled(self, peer: bytes, message: PushPull) -> None:
        """Send what ``peer`` lacks, within a few messages; the next digest mismatch brings the rest."""
        trust = self._context.trust
        trust.heard(peer, message.rosters)
        if message.rosters < len(trust.chain) or (message.rosters == len(trust.chain) and message.roster not in (b"", _newest(trust))):
            self._membership.send(peer, Rosters(trust.chain))
        missing_claims = self._claims_missing_at(peer, message)
        # A TLS handshake costs as much as some dozen datagrams.
        few = sum(len(claim) + len(certificate) for claim, certificate in missing_claims) < CLAIMS_BY_DATAGRAM_BYTES
        for claims in _batches(missing_claims, self._limits.datagram_bytes - 64 if few else self._limits.bulk_bytes // 2):
            self._membership.send(peer, Claims(tuple(claims)))
        proofs = [p for node, p in sorted(self.forgers.proofs.items()) if node not in message.forgers and self._wanted_of(node)]
        for start in range(0, len(proofs), ITEMS_PER_MESSAGE):
            self._membership.send(peer, Forks(tuple(proofs[start : start + ITEMS_PER_MESSAGE])))
        bundles = [bundle for node, bundle in self.pruner.missing_at(message.bases) if self._wanted_of(node)]
        for start in range(0, len(bundles), ITEMS_PER_MESSAGE):
            self._membership.send(peer, Bundles(tuple(bundles[start : start + ITEMS_PER_MESSAGE])))
        missing = [entry.data for entry in self.feeds.missing_at(message.vector, message.bases) if self._wanted_of(entry.node)]
        if message.vector == self.feeds.vector():
            # As many of each, and still another digest: perhaps not the same ones. A tip in another place proves a fork.
            missing = [entry.data for entry in self._some_tips() if self._wanted_of(entry.node)]
        for batch in batches(missing, self._limits)[: self._limits.pulled_messages]:
            self._membership.send(peer, Push(batch, answer=True))
        newcomer = len(message.heads) <= 1 and not message.vector and message.rosters <= len(trust.chain)
        if message.reply and not newcomer:  # who knows nobody else has nothing to tell
            self.push_pull(peer, reply=False)

    def _some_tips(self) -> list[Entry]:
        """Of each feed the last entry, a few at a time."""
        tips = self.feeds.tips()
        first = self._tip if self._tip < len(tips) else 0
        self._tip = first + TIPS
        return tips[first : first + TIPS]

    def _claims_missing_at(self, peer: bytes, message: PushPull) -> list[SignedClaim]:
        theirs = {node: (incarnation, left) for node, incarnation, left in message.heads}
        claims: list[SignedClaim] = []
        for member in self._membership.all():
            if not self._wanted_of(member.node):
                continue
            incarnation, left = theirs.get(member.node, (0, False))
            if member.node != peer and incarnation < member.alive.incarnation:
                claims.append((member.claim, member.certificate_data))
            known = left and incarnation >= member.alive.incarnation and member.state == "left"
            if member.state in GONE and member.departure and not known:  # their head does not tell left from forgotten
                claims.append((member.departure, b""))
            elif member.state != "alive":
                claims += self._membership.accusations(member)
        return claims

    def _wanted_of(self, node: bytes) -> bool:
        """Nobody takes a word of a revoked key any more."""
        return not self._context.trust.roster.is_revoked(node)

    def rosters(self, peer: bytes, chain: tuple[bytes, ...], now: Instant) -> None:
        """A peer sent its chain. Where it is a rival of ours, the peer has to know, too."""
        try:
            self.take_rosters(chain, now)
        except RemoteProtocolError as error:
            if error.reason == RIVAL and self._out.once(("rival", peer), now, RIVAL_MS):
                self._membership.send(peer, Rosters(self._context.trust.chain))
            raise

    def take_rosters(self, chain: tuple[bytes, ...], now: Instant) -> bool:
        """A roster chain came in, from a peer or from the operator. Raises ``RemoteProtocolError``. True when it is newer."""
        trust = self._context.trust
        before = trust.rival
        try:
            if not trust.offer(chain):
                return False
        finally:
            if trust.rival != before:
                self._out.persist((Put("meta", {"key": "roster_rival", "value": pack(list(trust.rival))}),))
                self._out.tell(*([RosterRival(trust.signed.number)] if trust.rival else []))
        trust.refresh(now)
        self._out.persist((Put("meta", {"key": "roster", "value": pack(list(chain))}),))
        self._membership.enforce(now)
        for node in self._membership.present():
            self._membership.send(node, Rosters(chain))
        self._out.tell(RosterChanged(trust.roster.number))
        return True


def _newest(trust: Trust) -> bytes:
    """Eight bytes that name the roster at the end of our chain."""
    return roster_hash(trust.chain[-1])[:8]


def _batches(claims: list[SignedClaim], room: int) -> list[list[SignedClaim]]:
    batches: list[list[SignedClaim]] = []
    left = 0
    for claim in claims:
        size = len(claim[0]) + len(claim[1]) + 8
        if not batches or size > left:
            batches.append([])
            left = room
        batches[-1].append(claim)
        left -= size
    return batches
