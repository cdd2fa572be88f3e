"""Roster: who may vote, issue and operate, signed by the mesh's root keys. The rules of trust, in prose:

* The mesh id is the hash of the first roster's body, so a mesh id vouches for the first root keys.
* The first roster is signed by a threshold of its own roots; every later one by a threshold of the roots of the one before it
  (as in TUF, "Key management and migration").
* Numbers only rise, and epochs never fall. A node keeps the newest that it has seen and refuses older ones.
* A revoked key has no rights, whatever else names it. Revocation is by key, never by certificate.

Input and output are elsewhere: all here is a function of bytes.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import LocalProtocolError, Refused, RemoteProtocolError
from cloudisense.keys.identity import NODE_ID_BYTES, SIGNATURE_BYTES, Identity, NodeId, checked_public_key, verify

MAX_ROSTER_BYTES = 256 * 1024
MAX_CHAIN = 4096
MAX_ROOTS = 16
MAX_VOTERS = 15
MAX_ISSUERS = 16
MAX_OPERATORS = 64
MAX_REVOKED = 4096
MAX_ANCHOR_BYTES = 2048
LEASE_MS = range(100, 3_600_000 + 1)
RHO_PPM = range(500_000 + 1)
COUNTERS = range(2**53)
"""Numbers and epochs stay exact in JSON."""

_TYPE = "roster"
_MESH_DOMAIN = b"cloudisense/1|mesh|"


class Issuer(msgspec.Struct, frozen=True, array_like=True):
    """Who may sign certificates: the key, and the DER of its X.509 CA certificate (the TLS trust anchor)."""

    key: bytes
    anchor: bytes

    def __post_init__(self) -> None:
        _checked_keys("issuer", (self.key,), 1)
        _bounded("issuer anchor", 0 < len(self.anchor) <= MAX_ANCHOR_BYTES)


class Roster(msgspec.Struct, frozen=True, array_like=True):
    """One numbered roster. ``ValueError`` when a field is out of bounds; ``RemoteProtocolError`` when it came from outside."""

    number: int
    epoch: int
    roots: tuple[bytes, ...]
    threshold: int
    voters: tuple[bytes, ...]
    issuers: tuple[Issuer, ...]
    operators: tuple[bytes, ...]
    revoked: tuple[bytes, ...]
    lease_ms: int
    """How long a lease is granted for, in milliseconds."""
    rho_ppm: int
    """The bound on how much two clocks' rates differ, in parts per million."""

    def __post_init__(self) -> None:
        _bounded("number", self.number in COUNTERS)
        _bounded("epoch", self.epoch in COUNTERS)
        _checked_keys("roots", self.roots, MAX_ROOTS)
        _bounded("threshold", 1 <= self.threshold <= len(self.roots))
        _distinct_ids("voters", self.voters, MAX_VOTERS)
        _distinct_ids("issuers", tuple(issuer.key for issuer in self.issuers), MAX_ISSUERS)
        _distinct_ids("operators", self.operators, MAX_OPERATORS)
        _distinct_ids("revoked", self.revoked, MAX_REVOKED)
        # A revoked root would still sign the next roster: such a roster contradicts itself.
        _bounded("roots", not set(self.roots) & set(self.revoked))
        _bounded("lease_ms", self.lease_ms in LEASE_MS)
        _bounded("rho_ppm", self.rho_ppm in RHO_PPM)

    def is_revoked(self, key: bytes) -> bool:
        """Whether ``key`` has lost all rights."""
        return key in self.revoked

    def issuer(self, key: bytes) -> Issuer | None:
        """The issuer with that key, revoked or not."""
        return next((issuer for issuer in self.issuers if issuer.key == key), None)


class SignedRoster(msgspec.Struct, frozen=True, array_like=True):
    """The exact bytes of a roster, and (root, signature) pairs. The signatures of two roots' holders may be gathered one by one."""

    body: bytes
    signatures: tuple[tuple[bytes, bytes], ...]

    def __post_init__(self) -> None:
        # Twice, so that a change of roots can be signed by the old and the new ones.
        _distinct_ids("signatures", tuple(root for root, _ in self.signatures), 2 * MAX_ROOTS)
        _bounded("signatures", all(len(signature) == SIGNATURE_BYTES for _, signature in self.signatures))


def sign_roster(roster: Roster, mesh_id: bytes | None, *roots: Identity) -> bytes:
    """``roster`` signed by ``roots``. ``mesh_id`` None makes the first roster of a new mesh, which names the mesh itself.

    Raises ``LocalProtocolError`` without roots, or with one of them twice.
    """
    if not roots or len({root.id for root in roots}) != len(roots):
        raise LocalProtocolError("a roster needs signatures by distinct roots")
    body = pack(roster)
    scope = _mesh_id(body) if mesh_id is None else mesh_id
    signatures = tuple(sorted((root.id, root.sign(_TYPE, scope, body)) for root in roots))
    return pack(SignedRoster(body, signatures))


def mesh_id_of(first_roster: bytes) -> bytes:
    """The id of the mesh that began with ``first_roster``: SHA-256, 32 bytes. ``RemoteProtocolError`` when malformed."""
    return _mesh_id(_read(first_roster).body)


def read_roster(data: bytes) -> Roster:
    """The roster in ``data``, unverified: for showing, and for our own stored chain. ``RemoteProtocolError`` when malformed."""
    return _parse(_read(data))


def check_chain(chain: Sequence[bytes], mesh_id: bytes) -> Roster:
    """Verify ``chain``, oldest first and complete, down to ``mesh_id``; the newest roster of it.

    Costs one signature check per roster and signing root. Raises ``RemoteProtocolError``.
    """
    if not 0 < len(chain) <= MAX_CHAIN:
        raise RemoteProtocolError("roster chain has a wrong length")
    first = _read(chain[0])
    if _mesh_id(first.body) != mesh_id:
        raise RemoteProtocolError("roster chain is of another mesh")
    current = _parse(first)
    _check_signatures(first, current, mesh_id)
    for data in chain[1:]:
        current = _successor(current, data, mesh_id)
    return current


def newer(current: Roster, candidate: bytes, mesh_id: bytes) -> Roster | Refused:
    """The roster in ``candidate`` if it may follow ``current``; ``Refused`` if it is not newer.

    ``RemoteProtocolError`` if it is newer by its number and not signed by ``current``'s roots. After a change of
    roots that this node missed, only the chain (``check_chain``) can convince it.
    """
    number = _parse(_read(candidate)).number
    if number <= current.number:
        return Refused(f"roster {number} is not newer than {current.number}")
    return _successor(current, candidate, mesh_id)


def _successor(current: Roster, data: bytes, mesh_id: bytes) -> Roster:
    signed = _read(data)
    following = _parse(signed)
    _check_signatures(signed, current, mesh_id)
    if following.number <= current.number:
        raise RemoteProtocolError("roster number does not rise")
    if following.epoch < current.epoch:
        raise RemoteProtocolError("roster epoch falls")
    return following


def _check_signatures(signed: SignedRoster, authority: Roster, mesh_id: bytes) -> None:
    """Raise unless a threshold of ``authority``'s roots signed. Others' signatures count for nothing and cost nothing."""
    valid = sum(root in authority.roots and verify(root, _TYPE, mesh_id, signed.body, signature) for root, signature in signed.signatures)
    if valid < authority.threshold:
        raise RemoteProtocolError("roster is not signed by enough roots")


def _read(data: bytes) -> SignedRoster:
    return unpack(data, SignedRoster, MAX_ROSTER_BYTES)


def _parse(signed: SignedRoster) -> Roster:
    return unpack(signed.body, Roster, MAX_ROSTER_BYTES)


def _mesh_id(body: bytes) -> bytes:
    return hashlib.sha256(_MESH_DOMAIN + body).digest()


def _bounded(what: str, condition: bool) -> None:
    if not condition:
        raise ValueError(f"roster: {what} out of bounds")


def _distinct_ids(what: str, ids: tuple[NodeId, ...], limit: int) -> None:
    if len(ids) > limit or len(set(ids)) != len(ids) or any(len(id_) != NODE_ID_BYTES for id_ in ids):
        raise ValueError(f"roster: {what} must be at most {limit} distinct keys of {NODE_ID_BYTES} bytes")


def _checked_keys(what: str, keys: tuple[NodeId, ...], limit: int) -> None:
    _distinct_ids(what, keys, limit)
    for key in keys:
        try:
            checked_public_key(key)
        except RemoteProtocolError as error:
            raise ValueError(f"roster: {what}: {error.reason}") from None
