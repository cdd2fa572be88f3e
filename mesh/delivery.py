"""Feeds on their way: durable first, then out to everyone at once, acknowledged, and repaired by digest (DESIGN section 3.2)."""

import hashlib

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Roster
from cloudisense.mesh.dissemination import Outbox, Shipment
from cloudisense.mesh.effects import Put
from cloudisense.mesh.events import EntryArrived, EntryDelivered
from cloudisense.mesh.feed import Entry, Feeds, Reference, parse_entry
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.outbound import Outbound
from cloudisense.mesh.wire import Claims, Got, Push, PushPull, SignedClaim

REFERENCES_PER_GOT = 16


class Delivery:
    """Appends, spreads, receives and repairs feed entries for one node."""

    def __init__(
        self, identity: Identity, boot: int, mesh_id: bytes, roster: Roster, membership: Membership, out: Outbound, limits: Limits
    ) -> None:
        self.feeds = Feeds(mesh_id, limits)
        self._identity = identity
        self._boot = boot
        self._mesh_id = mesh_id
        self._roster = roster
        self._membership = membership
        self._out = out
        self._limits = limits
        self._outbox = Outbox()

    def append(self, kind: str, body: bytes, now: Instant) -> Entry:
        """Add to our own feed; it is news here, and leaves, only once it is durable."""
        entry = self.feeds.append(self._identity, self._boot, now.wall_ms, kind, body)
        self._out.persist((_row(entry, now),), lambda later: self._publish(entry, later))
        return entry

    def _publish(self, entry: Entry, now: Instant) -> None:
        self.feeds.made_durable([entry])
        self._out.tell(EntryArrived(entry))
        waiting = set(self._membership.present())
        if waiting:
            self._outbox.open[entry.reference] = Shipment(entry.data, waiting)
            self.push(entry.reference, now)
        else:
            self._out.tell(EntryDelivered(entry.reference))

    def push(self, reference: Reference, now: Instant) -> None:
        """Send to all who have not acknowledged; the digests take over after the last attempt."""
        shipment = self._outbox.open.get(reference)
        if shipment is None:
            return
        for node in sorted(shipment.waiting):
            self._membership.send(node, Push((shipment.data,)))
        shipment.attempts += 1
        if shipment.attempts < self._limits.push_attempts:
            self._out.after(("push", reference), now, self._limits.push_retry_ms << (shipment.attempts - 1))

    def pushed(self, peer: bytes, message: Push, now: Instant) -> None:
        """Entries came in; a bad one costs only itself."""
        for data in message.entries:
            try:
                self._take(peer, data, now)
            except RemoteProtocolError as error:
                self._out.dropped[error.reason] += 1

    def _take(self, peer: bytes, data: bytes, now: Instant) -> None:
        entry, previous = parse_entry(data, self._mesh_id, self._limits.entry_bytes)
        if entry.node == self._identity.id:
            self._heard_ourselves(entry)
        else:
            author = self._membership.members.get(entry.node)
            if author is None or self._roster.is_revoked(entry.node) or "member" not in author.certificate.roles:
                raise RemoteProtocolError("entry of a stranger", peer)
        accepted = self.feeds.accept(entry, previous)
        if accepted:
            self._out.persist(tuple(_row(e, now) for e in accepted), lambda _: self._arrived(accepted))
        elif self.feeds.is_durable(entry.reference):
            self._acknowledge([entry])
        elif self.feeds.get(entry.reference) is not None:
            pass  # its write is under way; the acknowledgement follows it
        elif self._out.once(("pull", peer), now, self._limits.push_retry_ms):
            # Its predecessor is missing here: ask now rather than at the next digest.
            self.push_pull(peer, reply=True)

    def _heard_ourselves(self, entry: Entry) -> None:
        """Peers hold what we said and forgot: our state was restored from an older copy. Go on in a generation above it."""
        held = self.feeds.get(entry.reference)
        if entry.reference.generation >= self._boot and (held is None or held.hash != entry.hash):
            self._boot = entry.reference.generation + 1
            self._out.persist((Put("meta", {"key": "boot", "value": self._boot.to_bytes(8, "big")}),))

    def _arrived(self, entries: list[Entry]) -> None:
        self.feeds.made_durable(entries)
        # What we said ourselves, and forgot, is history: nothing follows from it now.
        self._out.tell(*(EntryArrived(entry) for entry in entries if entry.node != self._identity.id))
        self._acknowledge(entries)

    def _acknowledge(self, entries: list[Entry]) -> None:
        """Tell the authors, by whichever way the entries came."""
        for author in sorted({entry.node for entry in entries} & self._membership.members.keys()):
            got = [(e.node, e.reference.generation, e.reference.number) for e in entries if e.node == author]
            for start in range(0, len(got), REFERENCES_PER_GOT):
                self._membership.send(author, Got(tuple(got[start : start + REFERENCES_PER_GOT])))

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

    # -- repair --------------------------------------------------------------------------------------------------------

    def digest(self) -> bytes:
        """Eight bytes over all that is known: how far each feed, and every member's incarnation."""
        known = [(m.node, m.alive.incarnation, m.state == "left") for m in self._membership.all()]
        everyone = sorted([*known, (self._identity.id, self._membership.incarnation, False)])
        return hashlib.sha256(pack([self.feeds.vector(), everyone])).digest()[:8]

    def compare(self, peer: bytes, digest: bytes) -> None:
        """A peer's digest; a mismatch that lasts starts a push-pull."""
        member = self._membership.members[peer]
        if digest == self.digest():
            member.mismatches = 0
            # It holds on disk all that we do: whatever of ours it has not acknowledged, its acknowledgement was lost.
            self.give_up_on(peer)
            return
        member.mismatches += 1
        if member.mismatches >= self._limits.digest_mismatches:
            member.mismatches = 0
            self.push_pull(peer, reply=True)

    def push_pull(self, peer: bytes, reply: bool) -> None:
        """Tell ``peer`` all that we know, in brief; it sends what we lack, and the same in return if ``reply``."""
        first, *rest = _parts(self._membership.known_claims(), self._limits.bulk_bytes // 4)
        self._membership.send(peer, PushPull(first, self.feeds.vector(), reply))
        for claims in rest:
            self._membership.send(peer, Claims(claims))

    def pulled(self, peer: bytes, message: PushPull) -> None:
        """Send what ``peer`` lacks, within one message; the next digest mismatch brings the rest."""
        batch: list[bytes] = []
        room = self._limits.bulk_bytes // 2
        for entry in self.feeds.missing_at(message.vector):
            room -= len(entry.data) + 8
            if room < 0:
                break
            batch.append(entry.data)
        if batch:
            self._membership.send(peer, Push(tuple(batch)))
        if message.reply:
            self.push_pull(peer, reply=False)


def _parts(claims: list[SignedClaim], size: int) -> list[tuple[SignedClaim, ...]]:
    """``claims`` in their order, in tuples of about ``size`` bytes; at least one, if empty."""
    parts: list[list[SignedClaim]] = [[]]
    room = size
    for claim in claims:
        room -= len(claim[0]) + len(claim[1]) + 8
        if room < 0:
            parts.append([])
            room = size
        parts[-1].append(claim)
    return [tuple(part) for part in parts]


def _row(entry: Entry, now: Instant) -> Put:
    return Put(
        "entries",
        {
            "node": entry.node,
            "generation": entry.reference.generation,
            "number": entry.reference.number,
            "hash": entry.hash,
            "data": entry.data,
            "arrived_ms": now.wall_ms,
        },
    )
