"""Feeds: one append-only log per node and generation, numbered, hash-chained, signed by its node.

All that nodes tell each other about trouble is an entry in a feed; every state is a fold over feeds, and the
audit log is the feeds. A generation is one boot of the agent: after a restart a node never guesses where its own feed ended.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.mesh.checkpoint import NO_FOLD, START, Checkpoint, Place, fold
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.quota import Quota
from cloudisense.mesh.wire import VectorItem

ENTRY = "entry"
GENESIS = bytes(32)
MAX_NUMBER = 2**53
"""Bound on what is counted in an entry: exact in JSON, and a database takes it."""


class Reference(msgspec.Struct, frozen=True, array_like=True, order=True):
    """Names one entry."""

    node: bytes
    generation: int
    number: int


class _Body(msgspec.Struct, frozen=True, array_like=True):
    generation: int
    number: int
    previous: bytes
    wall_ms: int
    kind: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One verified entry. ``data`` is what the author signed, byte for byte; ``hash`` is its SHA-256."""

    reference: Reference
    wall_ms: int
    kind: str
    body: bytes
    data: bytes
    hash: bytes

    @property
    def node(self) -> bytes:
        return self.reference.node

    @property
    def place(self) -> Place:
        return (self.reference.generation, self.reference.number)


def _entry(node: bytes, body: _Body, data: bytes) -> Entry:
    return Entry(Reference(node, body.generation, body.number), body.wall_ms, body.kind, body.body, data, hashlib.sha256(data).digest())


def parse_entry(data: bytes, mesh_id: bytes, limit: int) -> tuple[Entry, bytes]:
    """A signed entry and the hash of its predecessor, its signature checked. Raises ``RemoteProtocolError``."""
    envelope = open_envelope(data, mesh_id, ENTRY, limit)
    body = unpack(envelope.body, _Body, limit)
    numbers = (body.generation, body.number, body.wall_ms)
    if len(body.previous) != 32 or len(body.kind) > 32 or not all(0 <= number < MAX_NUMBER for number in numbers):
        raise RemoteProtocolError("malformed entry")
    return _entry(envelope.signer, body, data), body.previous


def load_entry(data: bytes, limit: int) -> tuple[Entry, bytes]:
    """The same for an entry from our own store, whose signature was checked before it was stored."""
    envelope = read_envelope(data, limit)
    body = unpack(envelope.body, _Body, limit)
    return _entry(envelope.signer, body, data), body.previous


class OverQuota(ValueError):
    """Our own feed has had its share of everybody's disk for today, or altogether."""


@dataclass(slots=True)
class _Feed:
    entries: list[Entry] = field(default_factory=list[Entry])
    orphans: dict[int, tuple[Entry, bytes]] = field(default_factory=dict[int, tuple[Entry, bytes]])
    base: int = 0
    """Entries below this number are pruned; ``base_head`` is the hash of the last of them."""
    base_head: bytes = GENESIS
    durable: int = 0
    """Entries below this number are on disk: peers are told of those and no others."""
    quota: Quota = field(default_factory=Quota)

    @property
    def head(self) -> bytes:
        return self.entries[-1].hash if self.entries else self.base_head

    @property
    def end(self) -> int:
        return self.base + len(self.entries)


class Feeds:
    """Every feed that this node holds, in memory.

    ``count`` and ``size`` are all that takes room, in entries and bytes: those in their places, and those that wait for others.
    """

    def __init__(self, mesh_id: bytes, limits: Limits) -> None:
        self._mesh_id = mesh_id
        self._limits = limits
        self._feeds: dict[tuple[bytes, int], _Feed] = {}
        self._bases: dict[bytes, Checkpoint] = {}
        self._shut: set[bytes] = set()
        self.count = 0
        self.size = 0
        self._sizes: Counter[bytes] = Counter()
        self.durable_sum = 0
        """Sum over all entries on disk of the first eight bytes of their hashes, and of the checkpoints; part of the digest."""
        self._sums: Counter[bytes] = Counter()

    def load(self, data: bytes) -> Entry:
        """Take in an entry of our own store, in order. ``RemoteProtocolError`` where the store has a hole: peers fill it."""
        entry, previous = load_entry(data, self._limits.entry_bytes)
        feed = self._feed(entry.reference)
        if entry.reference.number != feed.end or previous != feed.head:
            raise RemoteProtocolError("hole in the store", entry.node)
        self._add(feed, entry)
        self._resize(entry, 1)
        self.made_durable([entry])
        return entry

    def append(self, identity: Identity, generation: int, wall_ms: int, kind: str, body: bytes) -> Entry:
        """Sign and add the next entry of our own feed. Raises ``ValueError`` when it is too large, ``OverQuota``."""
        feed = self._feed(Reference(identity.id, generation, 0))
        content = _Body(generation, feed.end, feed.head, wall_ms, kind, body)
        data = seal(identity, ENTRY, self._mesh_id, pack(content))
        if len(data) > self._limits.entry_bytes:
            raise ValueError(f"entry of {len(data)} bytes, limit {self._limits.entry_bytes}")
        if feed.quota.refuses(self._limits, kind, wall_ms, len(data)):
            raise OverQuota(f"more than {self._limits.entries_per_day} entries today, or {self._limits.feed_bytes} bytes in all")
        entry = _entry(identity.id, content, data)
        self._add(feed, entry)
        self._resize(entry, 1)
        return entry

    def crowded(self, reference: Reference) -> bool:
        """Would this entry wait for its predecessor, when too many of its author's wait already, or open one feed too many?"""
        feed = self._feeds.get((reference.node, reference.generation))
        if feed is not None and reference.number <= feed.end:
            return False
        own = [other for (node, _), other in self._feeds.items() if node == reference.node]
        if feed is None and len(own) >= self._limits.feeds // 4:
            return True
        return reference.number > 0 and sum(len(other.orphans) for other in own) >= self._limits.orphans_node

    def wanted(self, reference: Reference) -> bool:
        """Is this an entry that we have not seen, and would keep?"""
        feed = self._feeds.get((reference.node, reference.generation))
        held = feed.end if feed is not None else 0
        waits = feed is not None and reference.number in feed.orphans
        near = held <= reference.number < held + self._limits.orphans_per_feed
        return near and not waits and not self.covered(reference) and not self.crowded(reference)

    def covered(self, reference: Reference) -> bool:
        """Was this entry pruned behind a checkpoint?"""
        return (reference.generation, reference.number) < self.place(reference.node)

    def get(self, reference: Reference) -> Entry | None:
        """The entry, or ``None``."""
        feed = self._feeds.get((reference.node, reference.generation))
        return feed.entries[reference.number - feed.base] if feed is not None and feed.base <= reference.number < feed.end else None

    def is_durable(self, reference: Reference) -> bool:
        """Is this entry here and on disk, or was it, before it was pruned?"""
        feed = self._feeds.get((reference.node, reference.generation))
        return self.covered(reference) or (feed is not None and reference.number < feed.durable)

    def made_durable(self, entries: list[Entry]) -> None:
        """These are on disk now."""
        for entry in entries:
            feed = self._feeds.get((entry.node, entry.reference.generation))
            if feed is not None and entry.reference.number == feed.durable:
                feed.durable += 1
                self._sum(entry.node, _value(entry))

    def sum_of(self, node: bytes) -> int:
        """What the history of ``node`` adds to ``durable_sum``."""
        return self._sums[node] if node not in self._shut else 0

    def accept(self, entry: Entry, previous: bytes) -> list[Entry]:
        """Add a verified entry of another node; returns all that it made complete, in order.

        An entry ahead of its predecessor waits (bounded). Raises ``RemoteProtocolError``, and changes nothing, on a fork (two
        entries, signed by one node, for one place in one generation), on a broken chain, above a quota, and when there is no room.
        """
        if self.covered(entry.reference):
            return []
        feed = self._feeds.get((entry.node, entry.reference.generation)) or _Feed()
        number = entry.reference.number
        if number < feed.end:
            if feed.entries[number - feed.base].hash != entry.hash:
                raise RemoteProtocolError("forked feed", entry.node)
            return []
        if number >= feed.end + self._limits.orphans_per_feed:
            return []
        if number == feed.end:
            if previous != feed.head:
                raise RemoteProtocolError("broken chain", entry.node)
            if feed.quota.refuses(self._limits, entry.kind, entry.wall_ms, len(entry.data)):
                raise RemoteProtocolError("over quota", entry.node)
        if number not in feed.orphans:
            self._check_room(entry)
        else:
            self._resize(feed.orphans[number][0], -1)
        self._resize(entry, 1)
        feed = self._feed(entry.reference)
        feed.orphans[number] = (entry, previous)
        return self._join_up(feed)

    def _check_room(self, entry: Entry) -> None:
        limits, size = self._limits, len(entry.data)
        known = (entry.node, entry.reference.generation) in self._feeds
        if self._sizes[entry.node] + size > limits.feeds_bytes // 4:
            raise RemoteProtocolError("over quota", entry.node)
        if self.count >= limits.entries or self.size + size > limits.feeds_bytes or (not known and len(self._feeds) >= limits.feeds):
            raise RemoteProtocolError("feeds are full", entry.node)

    def _join_up(self, feed: _Feed) -> list[Entry]:
        accepted: list[Entry] = []
        while (waiting := feed.orphans.pop(feed.end, None)) is not None:
            entry, previous = waiting
            if previous != feed.head or feed.quota.refuses(self._limits, entry.kind, entry.wall_ms, len(entry.data)):
                # Its author signed two chains, and this is not the one that has a beginning; or it says too much.
                self._resize(entry, -1)
                break
            self._add(feed, entry)
            accepted.append(entry)
        return accepted

    def vector(self) -> tuple[VectorItem, ...]:
        """How far each feed is on disk here, sorted."""
        return tuple((node, generation, feed.durable) for (node, generation), feed in self._open() if feed.durable > feed.base)

    def missing_at(self, vector: tuple[VectorItem, ...], bases: tuple[VectorItem, ...] = ()) -> list[Entry]:
        """What the sender of ``vector`` lacks and we hold on disk, oldest first within each feed; it covers all before ``bases``."""
        theirs = {(node, generation): count for node, generation, count in vector}
        places = {node: (generation, number) for node, generation, number in bases}
        missing: list[Entry] = []
        for key, feed in self._open():
            place = places.get(key[0], START)
            if key[1] >= place[0]:
                have = max(theirs.get(key, 0), place[1] if key[1] == place[0] else 0)
                missing += feed.entries[max(0, have - feed.base) : max(0, feed.durable - feed.base)]
        return missing

    def tips(self) -> list[Entry]:
        """The last entry on disk of each feed, sorted: what tells two forks of one length apart."""
        return [feed.entries[feed.durable - feed.base - 1] for _, feed in self._open() if feed.durable > feed.base]

    def all(self) -> list[Entry]:
        """Every entry, by feed, then number."""
        return [entry for _, feed in sorted(self._feeds.items()) for entry in feed.entries]

    def of(self, node: bytes) -> list[Entry]:
        """All entries of one author that are here, in order."""
        return [entry for key, feed in sorted(self._feeds.items()) if key[0] == node for entry in feed.entries]

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def place(self, node: bytes) -> Place:
        """Where the history of ``node`` begins here."""
        checkpoint = self._bases.get(node)
        return checkpoint.place if checkpoint is not None else START

    def covering(self, node: bytes, place: Place) -> Checkpoint | None:
        """The checkpoint of ``node`` at ``place``, computed from what is durable here; ``None`` unless all of it is here."""
        base = self._bases.get(node)
        covered = [e for e in self.of(node) if e.place < place]
        if place <= self.place(node) or not covered or any(not self.is_durable(e.reference) for e in covered):
            return None
        last = covered[-1]
        if place != (last.reference.generation, last.reference.number + 1):
            return None
        hashes = [(*e.place, e.hash) for e in covered]
        return Checkpoint(node, *place, last.hash, fold(base.fold if base is not None else NO_FOLD, hashes))

    def contradicts(self, checkpoint: Checkpoint) -> bool:
        """Do we hold an entry at the end of what ``checkpoint`` covers, and it is another one?"""
        entry = self.get(Reference(checkpoint.node, checkpoint.generation, checkpoint.number - 1))
        return entry is not None and entry.hash != checkpoint.head

    def collapse(self, checkpoint: Checkpoint) -> tuple[list[Entry], list[Entry]]:
        """Let the history of ``checkpoint.node`` begin there; returns what was dropped, and what waited for it and is complete now."""
        node, before = checkpoint.node, self._bases.get(checkpoint.node)
        if checkpoint.place <= self.place(node):
            return [], []
        dropped: list[Entry] = []
        for key in sorted(key for key in self._feeds if key[0] == node and key[1] <= checkpoint.generation):
            feed = self._feeds[key]
            old = key[1] < checkpoint.generation
            below = feed.end if old else checkpoint.number
            for entry in feed.entries[: max(0, below - feed.base)]:
                dropped.append(entry)
                self._resize(entry, -1)
                if entry.reference.number < feed.durable:
                    self._sum(node, -_value(entry))
            for number in [number for number in feed.orphans if old or number < below]:
                self._resize(feed.orphans.pop(number)[0], -1)
            if old:
                del self._feeds[key]
            else:
                feed.entries = feed.entries[max(0, below - feed.base) :]
        feed = self._feed(Reference(node, checkpoint.generation, checkpoint.number))
        feed.base, feed.base_head = checkpoint.number, checkpoint.head
        feed.durable = max(feed.durable, feed.base)
        feed.quota.size = sum(len(entry.data) for entry in feed.entries)
        self._bases[node] = checkpoint
        self._sum(node, _weight(checkpoint) - (_weight(before) if before is not None else 0))
        return dropped, self._join_up(feed)

    # -- forgers -------------------------------------------------------------------------------------------------------

    def shut(self, node: bytes) -> None:
        """``node`` has forked: keep what is here as evidence, and neither spread it nor count it as known."""
        if node not in self._shut:
            self.durable_sum -= self._sums[node]
            self._shut.add(node)

    def _open(self) -> list[tuple[tuple[bytes, int], _Feed]]:
        return [(key, feed) for key, feed in sorted(self._feeds.items()) if key[0] not in self._shut]

    def _add(self, feed: _Feed, entry: Entry) -> None:
        feed.entries.append(entry)
        feed.quota.add(entry.wall_ms, len(entry.data))

    def _resize(self, entry: Entry, sign: int) -> None:
        self.count += sign
        self.size += sign * len(entry.data)
        self._sizes[entry.node] += sign * len(entry.data)

    def _sum(self, node: bytes, value: int) -> None:
        self._sums[node] += value
        if node not in self._shut:
            self.durable_sum += value

    def _feed(self, reference: Reference) -> _Feed:
        return self._feeds.setdefault((reference.node, reference.generation), _Feed())


def _value(entry: Entry) -> int:
    return int.from_bytes(entry.hash[:8], "big")


def _weight(checkpoint: Checkpoint) -> int:
    return int.from_bytes(hashlib.sha256(pack(checkpoint)).digest()[:8], "big")
