"""A whole mesh's keys from one number, for tests and for harnesses from outside. Never for a real mesh: the secrets are public."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from cloudisense.keys import tls
from cloudisense.keys.certificate import Certificate, Role, issue
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer, Roster, check_chain, mesh_id_of, sign_roster
from cloudisense.keys.session import SessionKey

NOT_BEFORE_MS = 1_577_836_800_000
"""2020-01-01: when everything made here begins to be valid."""
NOT_AFTER_MS = 4_733_510_400_000
"""2120-01-01: when it ends, so that real TLS stacks accept it too."""
WALL_MS = 1_767_225_600_000
"""2026-01-01: a Unix time in milliseconds to use as "now"."""

_LEASE_MS = 15_000
_RHO_PPM = 10_000


class HashRng:
    """A deterministic ``Rng``: SHA-256 over a label and a counter. Not for secrets."""

    def __init__(self, label: str) -> None:
        self._label = label.encode()
        self._block = 0
        self._left = b""

    def randbytes(self, n: int, /) -> bytes:
        """``n`` bytes."""
        while len(self._left) < n:
            self._left += hashlib.sha256(self._label + b"|" + self._block.to_bytes(8, "big")).digest()
            self._block += 1
        taken, self._left = self._left[:n], self._left[n:]
        return taken

    def random(self) -> float:
        """A float in [0, 1)."""
        return (int.from_bytes(self.randbytes(7), "big") >> 3) / 2**53

    def randrange(self, n: int, /) -> int:
        """An integer in [0, n), as good as uniform (64 bits more than needed); ``ValueError`` when ``n`` < 1."""
        if n < 1:
            raise ValueError("empty range")
        return int.from_bytes(self.randbytes(n.bit_length() // 8 + 9), "big") % n


@dataclass(frozen=True, slots=True)
class TestMember:
    """One member with all that it holds."""

    __test__: ClassVar[bool] = False  # no test class, whatever its name says to pytest

    identity: Identity
    certificate: bytes
    leaf: bytes
    """DER of its TLS certificate."""
    session_key: SessionKey


@dataclass(frozen=True, slots=True)
class TestMesh:
    """A mesh: root, issuer, two rosters (the second revokes), and a valid, a revoked and a foreign member."""

    __test__: ClassVar[bool] = False

    seed: int
    mesh_id: bytes
    root: Identity
    issuer: Identity
    anchor: bytes
    """DER of the issuer's CA certificate."""
    chain: tuple[bytes, ...]
    """The signed rosters, oldest first."""
    roster: Roster
    """The newest of them."""
    valid: TestMember
    revoked: TestMember
    """Its certificate is in good order; the newest roster revokes its key."""
    foreign: TestMember
    """A valid member of another mesh (other root, issuer and mesh id)."""
    foreign_mesh_id: bytes
    foreign_anchor: bytes

    def member(self, name: str, roles: tuple[Role, ...] = ("member", "voter", "actor")) -> TestMember:
        """One more valid member, always the same for the same seed and ``name``. The roster does not name it."""
        return _member(self.seed, name, self.mesh_id, self.issuer, self.anchor, roles)

    def sign(self, roster: Roster) -> tuple[bytes, ...]:
        """The chain with ``roster``, signed by the root, as its newest."""
        return (*self.chain, sign_roster(roster, self.mesh_id, self.root))


def issue_for_tests(seed: int) -> TestMesh:
    """The mesh number ``seed``: byte for byte the same everywhere. ``valid`` is its one voter; ``roster.number`` is 2."""
    valid_id, revoked_id = _identity(seed, "valid"), _identity(seed, "revoked")
    root, issuer, anchor, first, first_bytes, mesh_id = _found(seed, "", valid_id)
    second = Roster(
        2, first.epoch, first.roots, 1, first.voters, first.issuers, first.operators, (revoked_id.id,), first.lease_ms, first.rho_ppm
    )
    chain = (first_bytes, sign_roster(second, mesh_id, root))
    foreign_id = _identity(seed, "foreign")
    _, foreign_issuer, foreign_anchor, _, _, foreign_mesh_id = _found(seed, "foreign ", foreign_id)
    roles: tuple[Role, ...] = ("member", "voter", "actor")
    return TestMesh(
        seed=seed,
        mesh_id=mesh_id,
        root=root,
        issuer=issuer,
        anchor=anchor,
        chain=chain,
        roster=check_chain(chain, mesh_id),
        valid=_member(seed, "valid", mesh_id, issuer, anchor, roles),
        revoked=_member(seed, "revoked", mesh_id, issuer, anchor, roles),
        foreign=_member(seed, "foreign", foreign_mesh_id, foreign_issuer, foreign_anchor, roles),
        foreign_mesh_id=foreign_mesh_id,
        foreign_anchor=foreign_anchor,
    )


def _found(seed: int, which: str, voter: Identity) -> tuple[Identity, Identity, bytes, Roster, bytes, bytes]:
    root, issuer = _identity(seed, which + "root"), _identity(seed, which + "issuer")
    anchor = tls.anchor(issuer, NOT_BEFORE_MS, NOT_AFTER_MS, _serial(seed, which + "anchor"))
    operators = (_identity(seed, which + "operator").id,)
    first = Roster(1, 1, (root.id,), 1, (voter.id,), (Issuer(issuer.id, anchor),), operators, (), _LEASE_MS, _RHO_PPM)
    first_bytes = sign_roster(first, None, root)
    return root, issuer, anchor, first, first_bytes, mesh_id_of(first_bytes)


def _member(seed: int, name: str, mesh_id: bytes, issuer: Identity, anchor: bytes, roles: tuple[Role, ...]) -> TestMember:
    identity = _identity(seed, name)
    certificate = Certificate(identity.id, name, roles, (), NOT_BEFORE_MS, NOT_AFTER_MS, issuer.id)
    return TestMember(
        identity,
        issue(issuer, mesh_id, certificate),
        tls.leaf(issuer, anchor, identity.id, NOT_BEFORE_MS, NOT_AFTER_MS, _serial(seed, name)),
        SessionKey.generate(_rng(seed, name + " session")),
    )


def _identity(seed: int, name: str) -> Identity:
    return Identity.generate(_rng(seed, name + " identity"))


def _serial(seed: int, name: str) -> int:
    return 1 + int.from_bytes(_rng(seed, name + " serial").randbytes(8), "big")


def _rng(seed: int, label: str) -> HashRng:
    return HashRng(f"cloudisense test mesh {seed} {label}")
