"""Pruning: a node proposes where its history may begin, others who hold the same co-sign, then all drop what lies before."""

import hashlib
from collections.abc import Callable

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.checkpoint import (
    COSIGNERS,
    MAX_COSIGNERS,
    Bundle,
    Checkpoint,
    Place,
    check_bundle,
    check_cosigned,
    check_statement,
    cosign,
    load_bundle,
    state,
)
from cloudisense.mesh.context import Context
from cloudisense.mesh.effects import Delete, Put, Row
from cloudisense.mesh.feed import Entry, Feeds, Reference
from cloudisense.mesh.fork import Forgers
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.member import GONE
from cloudisense.mesh.membership import Membership
from cloudisense.mesh.wire import Bundles, Cosigned, Propose

SLACK_MS = 86_400_000
"""History may be this much older than ``keep_ms`` before it is worth a checkpoint."""


def cut(entries: list[Entry], unfinished: Callable[[Entry], bool], limits: Limits, now: Instant) -> Place | None:
    """Where a history of these (one author's, in order) should begin: the end of what is too much or too old, and finished."""
    generations = sorted({entry.reference.generation for entry in entries})
    # Not at the brim: one checkpoint makes room for many entries.
    surplus = len(entries) - limits.keep_entries if 4 * len(entries) > 5 * limits.keep_entries else 0
    crowded = len(generations) > limits.keep_generations
    oldest = generations[-max(1, limits.keep_generations // 2)] if crowded else -1
    since_ms = now.wall_ms - limits.keep_ms
    aged = now.wall_trusted and bool(entries) and entries[0].wall_ms < since_ms - SLACK_MS
    place: Place | None = None
    for i, entry in enumerate(entries):
        kept = i >= surplus and entry.reference.generation >= oldest and not (aged and entry.wall_ms < since_ms)
        if kept or unfinished(entry):
            break
        place = (entry.reference.generation, entry.reference.number + 1)
    return place


class Pruner:
    """One node's part in checkpoints: its own, and those that it co-signs or takes over."""

    def __init__(self, context: Context, membership: Membership, feeds: Feeds, forgers: Forgers) -> None:
        self.unfinished: Callable[[Entry], bool] = lambda entry: False
        """Set by the layer above: does this entry belong to something that has not ended?"""
        self.adopted: Callable[[list[Entry], Instant], None] = lambda entries, now: None
        """Told of entries that had waited for a checkpoint, once they are durable."""
        self.bundles: dict[bytes, Bundle] = {}
        self._context = context
        self._membership = membership
        self._feeds = feeds
        self._forgers = forgers
        self._out = context.out
        self._limits = context.limits
        self._proposed: tuple[Checkpoint, bytes] | None = None
        self._cosigned: dict[bytes, bytes] = {}
        for data in context.stored.checkpoints:
            try:
                checkpoint, bundle = load_bundle(data)
            except RemoteProtocolError as error:
                self._out.dropped[error.reason] += 1  # the disk did not keep it; peers have it
                continue
            self._feeds.collapse(checkpoint)
            self.bundles[checkpoint.node] = bundle

    def start(self, now: Instant) -> None:
        """Look now and then whether there is too much."""
        self._out.after("checkpoint", now, 1 + self._context.rng.randrange(self._limits.checkpoint_ms))

    # -- our own -------------------------------------------------------------------------------------------------------

    def propose(self, now: Instant) -> None:
        """If our history is too long, ask others to co-sign where it shall begin."""
        self._out.after("checkpoint", now, self._limits.checkpoint_ms)
        own = self._context.id
        place = cut(self._feeds.of(own), self.unfinished, self._limits, now)
        checkpoint = self._feeds.covering(own, place) if place is not None else None
        if checkpoint is None or own in self._forgers:
            return
        statement = state(self._context.identity, self._context.mesh_id, checkpoint)
        self._proposed, self._cosigned = (checkpoint, statement), {}
        present = self._membership.present()
        voters = [peer for peer in present if peer in self._context.trust.roster.voters]
        asked = {*voters, *self._context.choose(present, self._limits.checkpoint_asked)}
        for peer in sorted(asked):
            self._membership.send(peer, Propose(statement))
        self._settle(now)

    def cosigned(self, peer: bytes, message: Cosigned, now: Instant) -> None:
        """A peer holds the same."""
        if self._proposed is not None and check_cosigned(message.data, self._context.mesh_id, self._proposed[1]) == peer:
            self._cosigned[peer] = message.data
            self._settle(now)

    def _settle(self, now: Instant) -> None:
        if self._proposed is None or len(self._cosigned) < min(COSIGNERS, len(self._holders(self._context.id))):
            return
        roster = self._context.trust.roster
        voters = {voter for voter in roster.voters if not roster.is_revoked(voter)}
        if 2 * len(voters & {self._context.id, *self._cosigned}) <= len(voters):
            return  # what most voters do not hold yet must not go
        checkpoint, statement = self._proposed
        self._proposed = None
        signers = sorted(self._cosigned, key=lambda peer: (peer not in voters, peer))[:MAX_COSIGNERS]
        bundle = Bundle(statement, tuple(self._cosigned[peer] for peer in signers))
        self._install(checkpoint, bundle, now, self._spread)

    def _spread(self, bundle: Bundle) -> None:
        for peer in self._membership.present():
            self._membership.send(peer, Bundles((bundle,)))

    # -- others' -------------------------------------------------------------------------------------------------------

    def proposed(self, peer: bytes, message: Propose, now: Instant) -> None:
        """A peer wants its history to begin later: co-sign if we hold the very same, all of it durable and ended."""
        checkpoint = check_statement(message.statement, self._context.mesh_id)
        if checkpoint.node != peer or peer in self._forgers or not self._out.once(("cosign", peer), now, self._limits.probe_interval_ms):
            return
        if self._feeds.covering(peer, checkpoint.place) != checkpoint or self._any_unfinished(checkpoint):
            self._out.dropped["checkpoint not co-signed"] += 1
            return
        data = cosign(self._context.identity, self._context.mesh_id, message.statement)
        self._membership.send(peer, Cosigned(data))

    def take(self, message: Bundles, now: Instant) -> None:
        """Checkpoints came in; a bad one costs only itself."""
        for bundle in message.bundles:
            try:
                self._take(bundle, now)
            except RemoteProtocolError as error:
                self._out.dropped[error.reason] += 1

    def _take(self, bundle: Bundle, now: Instant) -> None:
        checkpoint, signers = check_bundle(bundle, self._context.mesh_id)
        node = checkpoint.node
        if checkpoint.place <= self._feeds.place(node) or node in self._forgers:
            return
        if node != self._context.id and node not in self._membership.members:
            raise RemoteProtocolError("checkpoint of a stranger", node)
        if self._feeds.contradicts(checkpoint):
            raise RemoteProtocolError("checkpoint contradicts its feed", node)
        witnesses = self._holders(node)
        held = self._feeds.covering(node, checkpoint.place) == checkpoint
        counted = signers & (witnesses | ({self._context.id} if node != self._context.id else set()))
        if held or node == self._context.id:
            counted |= {self._context.id}
        if len(counted) < min(COSIGNERS, len(witnesses)):
            raise RemoteProtocolError("checkpoint without enough co-signers", node)
        if len(signers) < COSIGNERS and self._context.id not in signers and node != self._context.id:
            # From a mesh that was smaller than it is now: by our own word, later members need not trust the author alone.
            data = cosign(self._context.identity, self._context.mesh_id, bundle.statement)
            bundle = Bundle(bundle.statement, (*bundle.cosigned, data))
        self._install(checkpoint, bundle, now, lambda _: None)

    def missing_at(self, bases: tuple[tuple[bytes, int, int], ...]) -> list[tuple[bytes, Bundle]]:
        """Whose checkpoints the sender of ``bases`` lacks, and the bundles."""
        theirs = {node: (generation, number) for node, generation, number in bases}
        nodes = [node for node in sorted(self.bundles) if node not in self._forgers]
        return [(node, self.bundles[node]) for node in nodes if theirs.get(node, (0, 0)) < self._feeds.place(node)]

    def bases(self) -> tuple[tuple[bytes, int, int], ...]:
        """Where the histories that do not begin at the beginning begin here, sorted."""
        return tuple((node, *self._feeds.place(node)) for node in sorted(self.bundles))

    def _holders(self, author: bytes) -> set[bytes]:
        """Members other than ourselves and ``author`` whose word counts."""
        return {
            m.node
            for m in self._membership.all()
            if m.node != author and m.state not in GONE and m.node not in self._forgers and not self._membership.shut_out(m.node)
        }

    def _any_unfinished(self, checkpoint: Checkpoint) -> bool:
        covered = (e for e in self._feeds.of(checkpoint.node) if (e.reference.generation, e.reference.number) < checkpoint.place)
        return any(self.unfinished(entry) for entry in covered)

    def _install(self, checkpoint: Checkpoint, bundle: Bundle, now: Instant, then: Callable[[Bundle], None]) -> None:
        """Drop what is covered. Its row comes with the deletions, so that a crash leaves both or neither."""
        dropped, adopted = self._feeds.collapse(checkpoint)
        self.bundles[checkpoint.node] = bundle
        row = {"node": checkpoint.node, "generation": checkpoint.generation, "number": checkpoint.number, "bundle": pack(bundle)}
        rows: list[Row] = [Put("checkpoints", row), *(_gone(entry.reference) for entry in dropped)]

        def durable(later: Instant) -> None:
            then(bundle)
            self.adopted(adopted, later)

        self._out.persist((*rows, *(entry_row(entry, now) for entry in adopted)), durable)


def entry_row(entry: Entry, now: Instant) -> Put:
    """An entry as the store keeps it."""
    reference = entry.reference
    key = {"node": entry.node, "generation": reference.generation, "number": reference.number}
    return Put("entries", {**key, "hash": entry.hash, "data": entry.data, "arrived_ms": now.wall_ms})


def intact(data: bytes, stored_hash: object) -> bool:
    """Is ``data`` of a row of ``entries`` what was stored? What a disk did not keep, peers bring again."""
    return hashlib.sha256(data).digest() == stored_hash


def _gone(reference: Reference) -> Delete:
    return Delete("entries", {"node": reference.node, "generation": reference.generation, "number": reference.number})
