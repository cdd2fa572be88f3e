"""Envelope: a type, the exact bytes that were signed, who signed, the signature.

What was signed is what is sent, stored and relayed: keep the ``data`` that came in, never build it again. So that one
statement has one form, and nobody on the way can give it another hash, only the canonical encoding is accepted.
"""

import msgspec

from cloudisense.keys.encoding import MAX_BYTES, pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import NODE_ID_BYTES, SIGNATURE_BYTES, Identity, is_type, verify


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """One signed statement. ``body`` is opaque here; ``type`` says which decoder it is for."""

    type: str
    body: bytes
    signer: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if not is_type(self.type) or len(self.signer) != NODE_ID_BYTES or len(self.signature) != SIGNATURE_BYTES:
            raise ValueError("envelope field out of bounds")


def seal(identity: Identity, type_: str, mesh_id: bytes, body: bytes) -> bytes:
    """Sign ``body`` as ``type_`` in ``mesh_id``; the bytes to send and to keep."""
    return pack(Envelope(type_, body, identity.id, identity.sign(type_, mesh_id, body)))


def read_envelope(data: bytes, limit: int = MAX_BYTES) -> Envelope:
    """Parse without verifying: for looking at the type, or for relaying. ``RemoteProtocolError`` when malformed."""
    envelope = unpack(data, Envelope, limit)
    if pack(envelope) != data:
        raise RemoteProtocolError("malformed envelope: not canonical")
    return envelope


def open_envelope(data: bytes, mesh_id: bytes, expected_type: str | None = None, limit: int = MAX_BYTES) -> Envelope:
    """Parse and verify. ``expected_type`` None accepts any type; the signer's right to speak is the caller's question.

    Raises ``RemoteProtocolError``: malformed, another type, or a signature that does not hold.
    """
    envelope = read_envelope(data, limit)
    if expected_type is not None and envelope.type != expected_type:
        raise RemoteProtocolError(f"not of type {expected_type}")
    if not verify(envelope.signer, envelope.type, mesh_id, envelope.body, envelope.signature):
        raise RemoteProtocolError("bad signature", envelope.signer)
    return envelope
