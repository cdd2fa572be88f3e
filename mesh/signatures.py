"""Signing and checking what must convince third parties, as the least that the lease needs of it.

A seam: a simulation of many thousand histories puts a cheap stand-in here; the tests in tests/mesh sign in earnest.
"""

from typing import Protocol

from cloudisense.keys.envelope import open_envelope, seal
from cloudisense.keys.identity import Identity


class Signatures(Protocol):
    """Statements in the name of one node."""

    @property
    def id(self) -> bytes:
        """Whose name it is."""
        ...

    def sign(self, kind: str, body: bytes) -> bytes:
        """``body`` signed as ``kind``."""
        ...

    def open(self, data: bytes, kind: str, limit: int) -> tuple[bytes, bytes]:
        """Who signed, and what, if it is a ``kind``. Raises ``RemoteProtocolError``."""
        ...


class Envelopes:
    """The real ones: Ed25519 envelopes of one mesh (``keys.envelope``)."""

    def __init__(self, identity: Identity, mesh_id: bytes) -> None:
        self._identity = identity
        self._mesh_id = mesh_id

    @property
    def id(self) -> bytes:
        """The public key."""
        return self._identity.id

    def sign(self, kind: str, body: bytes) -> bytes:
        """An envelope."""
        return seal(self._identity, kind, self._mesh_id, body)

    def open(self, data: bytes, kind: str, limit: int) -> tuple[bytes, bytes]:
        """Its signer and its body, verified. Raises ``RemoteProtocolError``."""
        envelope = open_envelope(data, self._mesh_id, kind, limit)
        return envelope.signer, envelope.body
