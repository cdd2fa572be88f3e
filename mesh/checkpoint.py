"""Checkpoints: where a pruned history begins, said by its author and co-signed by others who held what is gone (DESIGN section 3.2).

A checkpoint at (generation, number) covers every earlier generation of its author and the entries below ``number`` of this one.
``fold`` hashes all that it covers, on top of the fold of the checkpoint before it: whoever holds the entries can compute it,
and whoever co-signed it did. Any bundle of one checkpoint and its co-signatures proves itself, so it travels by any way.
"""

import hashlib

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, read_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity

CHECKPOINT = "checkpoint"
COSIGN = "cosign"
STATEMENT_BYTES = 512
COSIGNERS = 2
"""Needed besides the author; in a smaller mesh, everyone there is."""
MAX_COSIGNERS = 5

Place = tuple[int, int]
"""Generation and number: everything of one author before it is covered."""
START: Place = (0, 0)
NO_FOLD = bytes(32)


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """My history begins at entry ``number`` of ``generation``, whose predecessor has the hash ``head``."""

    node: bytes
    generation: int
    number: int
    head: bytes
    fold: bytes

    @property
    def place(self) -> Place:
        return (self.generation, self.number)


class Bundle(msgspec.Struct, frozen=True, array_like=True):
    """A signed checkpoint and who else signed its hash."""

    statement: bytes
    cosigned: tuple[bytes, ...]


BUNDLE_BYTES = (MAX_COSIGNERS + 1) * (STATEMENT_BYTES + 8)


def fold(previous: bytes, hashes: list[tuple[int, int, bytes]]) -> bytes:
    """The fold over (generation, number, hash) of entries in order, after ``previous``."""
    digest = hashlib.sha256(previous)
    for generation, number, entry in hashes:
        digest.update(generation.to_bytes(8, "big") + number.to_bytes(8, "big") + entry)
    return digest.digest()


def state(identity: Identity, mesh_id: bytes, checkpoint: Checkpoint) -> bytes:
    """The author's signed word."""
    return seal(identity, CHECKPOINT, mesh_id, pack(checkpoint))


def cosign(identity: Identity, mesh_id: bytes, statement: bytes) -> bytes:
    """I held what this checkpoint covers, and it is as it says (or I was given it so, co-signed)."""
    return seal(identity, COSIGN, mesh_id, hashlib.sha256(statement).digest())


def check_statement(data: bytes, mesh_id: bytes) -> Checkpoint:
    """A checkpoint in its author's own words. Raises ``RemoteProtocolError``."""
    envelope = open_envelope(data, mesh_id, CHECKPOINT, STATEMENT_BYTES)
    checkpoint = unpack(envelope.body, Checkpoint, STATEMENT_BYTES)
    small = checkpoint.generation < 0 or checkpoint.number < 1
    if envelope.signer != checkpoint.node or small or len(checkpoint.head) != 32 or len(checkpoint.fold) != 32:
        raise RemoteProtocolError("malformed checkpoint", envelope.signer)
    return checkpoint


def check_cosigned(data: bytes, mesh_id: bytes, statement: bytes) -> bytes:
    """Who co-signed ``statement`` with ``data``. Raises ``RemoteProtocolError``."""
    envelope = open_envelope(data, mesh_id, COSIGN, STATEMENT_BYTES)
    if envelope.body != hashlib.sha256(statement).digest():
        raise RemoteProtocolError("co-signed something else", envelope.signer)
    return envelope.signer


def check_bundle(bundle: Bundle, mesh_id: bytes) -> tuple[Checkpoint, frozenset[bytes]]:
    """The checkpoint and its co-signers, without the author. Whether they are enough is the caller's question."""
    if len(bundle.cosigned) > MAX_COSIGNERS:
        raise RemoteProtocolError("too many co-signatures")
    checkpoint = check_statement(bundle.statement, mesh_id)
    signers = frozenset(check_cosigned(data, mesh_id, bundle.statement) for data in bundle.cosigned)
    return checkpoint, signers - {checkpoint.node}


def load_bundle(data: bytes) -> tuple[Checkpoint, Bundle]:
    """A bundle from our own store, which was checked before it was stored."""
    bundle = unpack(data, Bundle, BUNDLE_BYTES)
    return unpack(read_envelope(bundle.statement, STATEMENT_BYTES).body, Checkpoint, STATEMENT_BYTES), bundle
