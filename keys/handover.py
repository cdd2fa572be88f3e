"""Handover: a node's key names the key that comes after it, and an issuer bears out that it certified that one.

Both words are needed. The old key's, because nobody else may retire it; the issuer's, because whoever steals a key that was
replaced can still sign with it, and would name a successor of his own. From then on the old key has no rights, whoever holds it.
"""

import msgspec

from cloudisense.keys.certificate import MAX_MS
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity, NodeId, checked_public_key

HANDOVER = "handover"
SUCCESSION = "succession"
MAX_HANDOVER_BYTES = 256
MAX_SUCCESSION_BYTES = 512


class Handover(msgspec.Struct, frozen=True, array_like=True):
    """Signed by ``node``: ``successor`` takes my place."""

    node: bytes
    successor: bytes


class Succession(msgspec.Struct, frozen=True, array_like=True):
    """Signed by an issuer: at ``issued_ms`` (Unix time) I certified the successor that this signed ``Handover`` names."""

    handover: bytes
    issued_ms: int

    def __post_init__(self) -> None:
        if not 0 <= self.issued_ms <= MAX_MS:
            raise ValueError("succession: the time is out of bounds")


class Replaced(msgspec.Struct, frozen=True):
    """What a succession says, its two signatures checked; whether ``issuer`` was one is for who knows the rosters."""

    node: bytes
    successor: bytes
    issuer: bytes
    issued_ms: int


def seal_handover(old: Identity, mesh_id: bytes, successor: NodeId) -> bytes:
    """The word by which ``old`` gives its place to ``successor``."""
    return seal(old, HANDOVER, mesh_id, pack(Handover(old.id, successor)))


def open_handover(data: bytes, mesh_id: bytes) -> Handover:
    """The handover in ``data``. ``RemoteProtocolError`` when it is not by the key that it retires, or names no good key."""
    envelope = open_envelope(data, mesh_id, HANDOVER, MAX_HANDOVER_BYTES)
    found = unpack(envelope.body, Handover, MAX_HANDOVER_BYTES)
    if envelope.signer != found.node or checked_public_key(found.successor) == found.node:
        raise RemoteProtocolError("handover of another key", envelope.signer)
    return found


def seal_succession(issuer: Identity, mesh_id: bytes, handover: bytes, issued_ms: int) -> bytes:
    """The claim that tells everyone."""
    return seal(issuer, SUCCESSION, mesh_id, pack(Succession(handover, issued_ms)))


def open_succession(data: bytes, mesh_id: bytes) -> Replaced:
    """The succession in ``data``. ``RemoteProtocolError`` when one of its signatures does not hold."""
    envelope = open_envelope(data, mesh_id, SUCCESSION, MAX_SUCCESSION_BYTES)
    found = unpack(envelope.body, Succession, MAX_SUCCESSION_BYTES)
    handover = open_handover(found.handover, mesh_id)
    return Replaced(handover.node, handover.successor, envelope.signer, found.issued_ms)
