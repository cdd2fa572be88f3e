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
    if len(body.previous) != 32 or body.generation < 0 or body.number < 0 or len(body.kind) > 32:
        raise RemoteProtocolError("malformed entry")
    if max(body.generation, body.number, body.wall_ms) >= 2**53 or body.wall_ms < 0:
        raise RemoteProtocolError("malformed entry")  # beyond what a table holds, and what JSON says exactly
    return _entry(envelope.signer, body, data), body.previous


def load_entry(data: bytes, limit: int) -> Entry:
    """An entry from our own store, whose signature was checked before it was stored."""
    envelope = read_envelope(data, limit)
    return _entry(envelope.signer, unpack(envelope.body, _Body, limit), data)


@dataclass(slots=True)
class _Feed:
    entries: list[Entry] = field(default_factory=list[Entry])
    orphans: dict[int, tuple[Entry, bytes]] = field(default_factory=dict[int, tuple[Entry, bytes]])

    @property
    def head(self) -> bytes:
        return self.entries[-1].hash if self.entries else GENESIS


class Feeds:
    """Every feed that this node holds, in memory; what is on disk is the same, synced before it is acknowledged."""

    def __init__(self, mesh_id: bytes, limits: Limits) -> None:
        self._mesh_id = mesh_id
        self._limits = limits
        self._feeds: dict[tuple[bytes, int], _Feed] = {}
        self.count = 0
        self.known_sum = 0
        """Sum over all entries of the first eight bytes of their hashes; part of the digest."""

    def load(self, data: bytes) -> Entry:
        """Take in an entry of our own store, in order."""
        entry = load_entry(data, self._limits.entry_bytes)
        self._add(self._feed(entry.reference), entry)
        return entry

    def append(self, identity: Identity, generation: int, wall_ms: int, kind: str, body: bytes) -> Entry:
        """Sign and add the next entry of our own feed. Raises ``ValueError`` when it is too large."""
        feed = self._feed(Reference(identity.id, generation, 0))
        content = _Body(generation, len(feed.entries), feed.head, wall_ms, kind, body)
        data = seal(identity, ENTRY, self._mesh_id, pack(content))
        if len(data) > self._limits.entry_bytes:
            raise ValueError(f"entry of {len(data)} bytes, limit {self._limits.entry_bytes}")
        entry = _entry(identity.id, content, data)
        self._add(feed, entry)
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

    def holds(self, reference: Reference) -> bool:
        """Is this entry here?"""
        feed = self._feeds.get((reference.node, reference.generation))
        return feed is not None and reference.number < len(feed.entries)

    def get(self, reference: Reference) -> Entry | None:
        """The entry, or ``None``."""
        feed = self._feeds.get((reference.node, reference.generation))
        return feed.entries[reference.number] if feed is not None and reference.number < len(feed.entries) else None

    def accept(self, entry: Entry, previous: bytes) -> list[Entry]:
        """Add a verified entry of another node; returns all that it made complete, in order.

        An entry ahead of its predecessor waits (bounded). Raises ``RemoteProtocolError`` on a fork: two entries, signed by
        one node, for one place in one generation.
        """
        if self.count >= self._limits.entries or len(self._feeds) >= self._limits.feeds:
            raise RemoteProtocolError("feeds are full", entry.node)
        feed = self._feed(entry.reference)
        number = entry.reference.number
        if number < len(feed.entries):
            if feed.entries[number].hash != entry.hash:
                raise RemoteProtocolError("forked feed", entry.node)
            return []
        if number >= len(feed.entries) + self._limits.orphans_per_feed:
            return []
        feed.orphans[number] = (entry, previous)
        accepted: list[Entry] = []
        while (waiting := feed.orphans.pop(len(feed.entries), None)) is not None:
            if waiting[1] != feed.head:
                raise RemoteProtocolError("broken chain", entry.node)
            self._add(feed, waiting[0])
            accepted.append(waiting[0])
        return accepted

    def vector(self) -> tuple[VectorItem, ...]:
        """How far each feed is known here, sorted."""
        return tuple((node, generation, len(feed.entries)) for (node, generation), feed in sorted(self._feeds.items()) if feed.entries)

    def missing_at(self, vector: tuple[VectorItem, ...]) -> list[Entry]:
        """What the sender of ``vector`` lacks and we hold, oldest first within each feed."""
        theirs = {(node, generation): count for node, generation, count in vector}
        missing: list[Entry] = []
        for key, feed in sorted(self._feeds.items()):
            missing += feed.entries[max(0, theirs.get(key, 0)) :]
        return missing

    def lacks_from(self, vector: tuple[VectorItem, ...]) -> bool:
        """Does the sender of ``vector`` hold anything that we lack?"""
        for node, generation, count in vector:
            feed = self._feeds.get((node, generation))
            if count > (len(feed.entries) if feed is not None else 0):
                return True
        return False

    def all(self) -> list[Entry]:
        """Every entry, by feed, then number."""
        return [entry for _, feed in sorted(self._feeds.items()) for entry in feed.entries]

    def _add(self, feed: _Feed, entry: Entry) -> None:
        feed.entries.append(entry)
        self.count += 1
        self.known_sum += int.from_bytes(entry.hash[:8], "big")

    def _feed(self, reference: Reference) -> _Feed:
        return self._feeds.setdefault((reference.node, reference.generation), _Feed())
