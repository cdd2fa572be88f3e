"""Feeds: one append-only log per node and generation, numbered, hash-chained, signed by its node.

All that nodes tell each other about trouble is an entry in a feed; every state is a fold over feeds, and the
audit log is the feeds. A generation is one boot of the agent: after a restart a node never guesses where its own feed ended.
"""

import hashlib
from dataclasses import dataclass, field

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.mesh.limits import Limits
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


@dataclass(slots=True)
class _Feed:
    """``durable`` is how many of ``entries`` are synced to disk: peers are told of those and no others."""

    entries: list[Entry] = field(default_factory=list[Entry])
    durable: int = 0
    orphans: dict[int, tuple[Entry, bytes]] = field(default_factory=dict[int, tuple[Entry, bytes]])

    @property
    def head(self) -> bytes:
        return self.entries[-1].hash if self.entries else GENESIS


class Feeds:
    """Every feed that this node holds, in memory. ``count`` is all that takes room: entries, and those that wait for others."""

    def __init__(self, mesh_id: bytes, limits: Limits) -> None:
        self._mesh_id = mesh_id
        self._limits = limits
        self._feeds: dict[tuple[bytes, int], _Feed] = {}
        self.count = 0
        self.durable_sum = 0
        """Sum over all entries on disk of the first eight bytes of their hashes; part of the digest."""
        self._sums: dict[bytes, int] = {}

    def load(self, data: bytes) -> Entry:
        """Take in an entry of our own store, in order. ``RemoteProtocolError`` where the store has a hole: peers fill it."""
        entry, previous = load_entry(data, self._limits.entry_bytes)
        feed = self._feed(entry.reference)
        if entry.reference.number != len(feed.entries) or previous != feed.head:
            raise RemoteProtocolError("hole in the store", entry.node)
        feed.entries.append(entry)
        self.count += 1
        self.made_durable([entry])
        return entry

    def append(self, identity: Identity, generation: int, wall_ms: int, kind: str, body: bytes) -> Entry:
        """Sign and add the next entry of our own feed. Raises ``ValueError`` when it is too large."""
        feed = self._feed(Reference(identity.id, generation, 0))
        content = _Body(generation, len(feed.entries), feed.head, wall_ms, kind, body)
        data = seal(identity, ENTRY, self._mesh_id, pack(content))
        if len(data) > self._limits.entry_bytes:
            raise ValueError(f"entry of {len(data)} bytes, limit {self._limits.entry_bytes}")
        entry = _entry(identity.id, content, data)
        feed.entries.append(entry)
        self.count += 1
        return entry

    def crowded(self, reference: Reference) -> bool:
        """Would this entry wait for its predecessor, when too many of its author's wait already, or open one feed too many?"""
        feed = self._feeds.get((reference.node, reference.generation))
        if feed is not None and reference.number <= len(feed.entries):
            return False
        own = [other for (node, _), other in self._feeds.items() if node == reference.node]
        if feed is None and len(own) >= self._limits.feeds // 4:
            return True
        return reference.number > 0 and sum(len(other.orphans) for other in own) >= self._limits.orphans_node

    def wanted(self, reference: Reference) -> bool:
        """Is this an entry that we have not seen, and would keep?"""
        feed = self._feeds.get((reference.node, reference.generation))
        held = len(feed.entries) if feed is not None else 0
        waits = feed is not None and reference.number in feed.orphans
        return held <= reference.number < held + self._limits.orphans_per_feed and not waits and not self.crowded(reference)

    def get(self, reference: Reference) -> Entry | None:
        """The entry, or ``None``."""
        feed = self._feeds.get((reference.node, reference.generation))
        return feed.entries[reference.number] if feed is not None and 0 <= reference.number < len(feed.entries) else None

    def is_durable(self, reference: Reference) -> bool:
        """Is this entry here, and on disk?"""
        feed = self._feeds.get((reference.node, reference.generation))
        return feed is not None and reference.number < feed.durable

    def made_durable(self, entries: list[Entry]) -> None:
        """These are on disk now."""
        for entry in entries:
            feed = self._feed(entry.reference)
            if entry.reference.number == feed.durable:
                feed.durable += 1
                value = int.from_bytes(entry.hash[:8], "big")
                self.durable_sum += value
                self._sums[entry.node] = self._sums.get(entry.node, 0) + value

    def sum_of(self, node: bytes) -> int:
        """What the entries of ``node`` add to ``durable_sum``."""
        return self._sums.get(node, 0)

    def accept(self, entry: Entry, previous: bytes) -> list[Entry]:
        """Add a verified entry of another node; returns all that it made complete, in order.

        An entry ahead of its predecessor waits (bounded). Raises ``RemoteProtocolError``, and changes nothing, on a fork (two
        entries, signed by one node, for one place in one generation), on a broken chain, and when there is no room.
        """
        feed = self._feeds.get((entry.node, entry.reference.generation))
        number, held = entry.reference.number, len(feed.entries) if feed is not None else 0
        if feed is not None and number < held:
            if feed.entries[number].hash != entry.hash:
                raise RemoteProtocolError("forked feed", entry.node)
            return []
        if number >= held + self._limits.orphans_per_feed:
            return []
        if number == held and previous != (feed.head if feed is not None else GENESIS):
            raise RemoteProtocolError("broken chain", entry.node)
        if feed is None and len(self._feeds) >= self._limits.feeds:
            raise RemoteProtocolError("feeds are full", entry.node)
        feed = self._feed(entry.reference)
        if number not in feed.orphans:
            if self.count >= self._limits.entries:
                raise RemoteProtocolError("feeds are full", entry.node)
            self.count += 1
        feed.orphans[number] = (entry, previous)
        return self._join_up(feed)

    def _join_up(self, feed: _Feed) -> list[Entry]:
        accepted: list[Entry] = []
        while (waiting := feed.orphans.pop(len(feed.entries), None)) is not None:
            if waiting[1] != feed.head:
                self.count -= 1  # its author signed two chains; this is not the one that has a beginning
                break
            feed.entries.append(waiting[0])
            accepted.append(waiting[0])
        return accepted

    def vector(self) -> tuple[VectorItem, ...]:
        """How far each feed is on disk here, sorted."""
        return tuple((node, generation, feed.durable) for (node, generation), feed in sorted(self._feeds.items()) if feed.durable)

    def missing_at(self, vector: tuple[VectorItem, ...]) -> list[Entry]:
        """What the sender of ``vector`` lacks and we hold on disk, oldest first within each feed."""
        theirs = {(node, generation): count for node, generation, count in vector}
        missing: list[Entry] = []
        for key, feed in sorted(self._feeds.items()):
            missing += feed.entries[max(0, theirs.get(key, 0)) : feed.durable]
        return missing

    def all(self) -> list[Entry]:
        """Every entry, by feed, then number."""
        return [entry for _, feed in sorted(self._feeds.items()) for entry in feed.entries]

    def _feed(self, reference: Reference) -> _Feed:
        return self._feeds.setdefault((reference.node, reference.generation), _Feed())
