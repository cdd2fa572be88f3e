"""The state folder of one node: its keys, what its mesh gave it, and the lock that keeps a second agent out.

    identity.key  root.key  operator.key    Ed25519 seeds, 32 bytes, for this user only
    identity-next.key                       while this node's key is being replaced
    agent.toml                              the configuration, written once and never again
    state.db                                everything durable that is not a secret key
    models/                                 language models
    agent.lock  agent.sock                  while an agent runs

A folder belongs to one node of one mesh for good: nothing here overwrites a key, but for the node's own, once its successor is certified.
"""

import fcntl
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from cloudisense.keys import tls
from cloudisense.keys.certificate import Certificate, Role, check_certificate, issue, read_certificate
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import read_envelope
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.handover import SUCCESSION, open_succession
from cloudisense.keys.identity import Identity, node_text
from cloudisense.keys.roster import Issuer, Roster, check_chain, mesh_id_of, sign_roster
from cloudisense.mesh.effects import Put
from cloudisense.mesh.instant import Instant
from cloudisense.store import Store

DATABASE = "state.db"
CONFIG = "agent.toml"
KEY_BYTES = 32
CHAIN_BYTES = 1 << 20
NEXT_KEY = "identity-next.key"
VALID_MS = 90 * 86_400_000
"""A certificate holds this long and is renewed at half of it (``renewal``); who must go sooner is revoked by key."""
ANCHOR_MS = 10 * 365 * 86_400_000
"""An issuer's own X.509 certificate holds this long: it stands in the roster, and only the root changes that."""
BACKDATE_MS = 86_400_000
"""And begin a day early: the clocks of edge hosts differ."""
PROMOTED = "roster_promoted"
"""Meta: the chain with a roster that the running agent signed itself, durable before it is told."""
ROTATED = "rotated"
"""Meta: what the issuer gave to this node's next key, from when it is durable until ``finish_rotation``."""
RIVAL = "roster_rival"
"""Meta: a chain that the root signed beside ours; empty when there is none any more."""
OFFERED = "roster_offered"
"""Meta: a chain that a command hands to the running agent."""
LEASE_MS = 15_000
RHO_PPM = 10_000
FOUNDER_ROLES: tuple[Role, ...] = ("member", "voter", "actor", "issuer", "operator")


def default_state() -> Path:
    """Where state lies unless ``--state`` says otherwise (DESIGN section 5)."""
    return Path("/var/lib/cloudisense") if os.geteuid() == 0 else Path(platformdirs.user_data_dir("cloudisense"))


def home_of(state: Path | None) -> "Home":
    """The state folder that ``--state`` names, or this user's own."""
    return Home((state or default_state()).absolute())


@dataclass(frozen=True, slots=True)
class Membership:
    """What makes this folder a member: its key, its certificates and the roster chain, oldest first."""

    name: str
    mesh_id: bytes
    identity: Identity
    certificate: bytes
    leaf: bytes
    chain: tuple[bytes, ...]
    roster: Roster
    seeds: tuple[tuple[str, int], ...]


class Home:
    """One state folder. ``ValueError``, one line, for everything that a person can mend."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def models(self) -> Path:
        return self.path / "models"

    @property
    def socket(self) -> Path:
        return self.path / "agent.sock"

    def lock(self) -> None:
        """Keep every other agent and every ``init`` and ``join`` out of this folder until this process ends."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(self.path / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"state folder {self.path} is in use by another agent; stop that one, or name another --state") from None
        except OSError as error:
            raise ValueError(f"state folder {self.path} cannot be used: {error.strerror}; name another --state") from None

    def unlock(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check_vacant(self) -> None:
        """Refuse a folder that belongs to a node already, or that holds any key: nothing overwrites one."""
        if (self.path / "identity.key").exists():
            try:
                member = self.load()
                whose = f"to node {member.name} of mesh {mesh_text(member.mesh_id)}"
            except ValueError:
                whose = "to a node"
            raise ValueError(f"state folder {self.path} belongs {whose} already; nothing was changed; name another --state")
        for name in ("root", "operator"):
            if (self.path / f"{name}.key").exists():
                raise ValueError(f"state folder {self.path} holds a {name}.key and no identity.key; restore that, or name another --state")

    def load(self) -> Membership:
        """What ``found`` or ``enrol`` stored."""
        identity = self.key("identity")
        store = Store.open_readonly(self.database)
        try:
            meta = {row["key"]: bytes(row["value"]) for row in store.rows("meta")}
        finally:
            store.close()
        try:
            meta |= _rotated(meta, identity.id)
            chain = _newest(meta)
            mesh_id = mesh_id_of(chain[0])
            roster = check_chain(chain, mesh_id)
            seeds = unpack(meta["seeds"], tuple[tuple[str, int], ...], CHAIN_BYTES)
            certificate = check_certificate(meta["certificate"], roster, mesh_id, 0, wall_trusted=False)
            leaf_of = tls.node_of(meta["leaf"])
        except (KeyError, IndexError, RemoteProtocolError) as error:
            if str(error) == "revoked key":
                raise ValueError(f"the node in {self.path} was revoked: it is no member any more; join anew with another --state") from None
            raise ValueError(f"state folder {self.path} is damaged: {error}; restore it, or join anew with another --state") from None
        if not identity.id == certificate.node == leaf_of:
            raise ValueError(f"state folder {self.path}: identity.key is not the key of this node's certificates; restore the right one")
        return Membership(certificate.name, mesh_id, identity, meta["certificate"], meta["leaf"], chain, roster, seeds)

    def roots(self, roster: Roster, *more: Path) -> dict[Path, Identity]:
        """The root keys of ``roster`` that lie here (``root*.key``) or in the files ``more``. ``ValueError`` for one that is none."""
        found = {path: read_key(path) for path in sorted(self.path.glob("root*.key"))}
        found = {path: key for path, key in found.items() if key.id in roster.roots}
        for path in more:
            key = read_key(path)
            if key.id not in roster.roots:
                raise ValueError(f"{path} is not a root key of this mesh")
            found[path] = key
        return found

    def key(self, name: str) -> Identity:
        """The private key ``name``."""
        path = self.path / f"{name}.key"
        if name == "identity" and not path.exists():
            raise ValueError(f"there is no node in {self.path}: run cloudisense init or join first, or name another --state")
        return read_key(path)

    def next_key(self) -> Identity:
        """The key that is to replace this node's: a new one, durable, or the one that an attempt left that did not end."""
        path = self.path / NEXT_KEY
        if not path.exists():
            write_key(path, Identity(secrets.token_bytes(KEY_BYTES)))
        return read_key(path)

    def keep_rotation(self, certificate: bytes, leaf: bytes, chain: tuple[bytes, ...], claim: bytes) -> None:
        """Make durable what an issuer gave to the next key; nothing of the present one changes."""
        store = Store(self.database)
        try:
            store.put_meta(ROTATED, pack([certificate, leaf, pack(list(chain)), claim]))
        finally:
            store.close()

    @property
    def rotating(self) -> bool:
        """Was a replacement of this node's key begun, and did it not end?"""
        return (self.path / NEXT_KEY).exists()

    def finish_rotation(self) -> bool:
        """Go over to the next key, if an issuer has certified it; every crash on the way is mended by calling this again.

        The key file first: until the state says otherwise, ``load`` takes the certificate that fits the key.
        """
        store = Store(self.database)
        try:
            meta = {row["key"]: bytes(row["value"]) for row in store.rows("meta")}
            if not meta.get(ROTATED):
                return False
            if self.rotating and _rotated(meta, self.next_key().id):
                (self.path / NEXT_KEY).rename(self.path / "identity.key")
                sync_folder(self.path)
            values = _rotated(meta, self.key("identity").id)
            store.write(Put("meta", {"key": key, "value": value}) for key, value in {**values, ROTATED: b""}.items())
            return bool(values)
        finally:
            store.close()

    def rival(self) -> tuple[bytes, ...]:
        """A roster chain that the root signed beside the one that holds here; empty when there is none."""
        store = Store.open_readonly(self.database)
        try:
            return tuple(unpack(store.get_meta(RIVAL) or pack([]), list[bytes], CHAIN_BYTES))
        finally:
            store.close()

    def replaced(self, member: Membership) -> tuple[tuple[bytes, bytes], ...]:
        """(key, its successor) of the keys that were replaced, as far as this folder knows and no roster says so for good."""
        store = Store.open_readonly(self.database)
        try:
            claims = unpack(store.get_meta("revocations") or pack([]), list[bytes], CHAIN_BYTES)
        finally:
            store.close()
        found = [open_succession(claim, member.mesh_id) for claim in claims if read_envelope(claim).type == SUCCESSION]
        return tuple((claim.node, claim.successor) for claim in found if not member.roster.is_revoked(claim.node))

    def found(self, name: str, config_text: str, now: Instant) -> Membership:
        """Begin a new mesh with this node as its founder, issuer and only voter."""
        self.check_vacant()
        identity, root, operator = (Identity(secrets.token_bytes(KEY_BYTES)) for _ in range(3))
        begin = now.wall_ms - BACKDATE_MS
        anchor = tls.anchor(identity, begin, now.wall_ms + ANCHOR_MS, _serial())
        roster = Roster(
            1, 1, (root.id,), 1, (identity.id,), (Issuer(identity.id, anchor),), (operator.id,), (), lease_ms=LEASE_MS, rho_ppm=RHO_PPM
        )
        first = sign_roster(roster, None, root)
        mesh_id = mesh_id_of(first)
        certificate, leaf = certify(identity, roster, mesh_id, identity.id, name, FOUNDER_ROLES, (), now)
        for key_name, key in (("root", root), ("operator", operator)):
            self._write_key(key_name, key)
        self._enrol(identity, certificate, leaf, (first,), (), config_text)
        return self.load()

    def enrol(
        self,
        identity: Identity,
        certificate: bytes,
        leaf: bytes,
        chain: tuple[bytes, ...],
        seeds: tuple[tuple[str, int], ...],
        config_text: str,
    ) -> Membership:
        """Keep what an issuer gave us."""
        self.check_vacant()
        self._enrol(identity, certificate, leaf, chain, seeds, config_text)
        return self.load()

    def _enrol(
        self,
        identity: Identity,
        certificate: bytes,
        leaf: bytes,
        chain: tuple[bytes, ...],
        seeds: tuple[tuple[str, int], ...],
        config_text: str,
    ) -> None:
        store = Store(self.database)
        try:
            values = {"certificate": certificate, "leaf": leaf, "roster": pack(list(chain)), "seeds": pack(seeds)}
            store.write(Put("meta", {"key": key, "value": value}) for key, value in values.items())
        finally:
            store.close()
        if not self.config.exists():
            self.config.write_text(config_text, encoding="utf-8")
        # Last, because it is what makes the folder a node's: before it, init or join can simply be run again.
        self._write_key("identity", identity)

    def _write_key(self, name: str, key: Identity) -> None:
        write_key(self.path / f"{name}.key", key)

    def next_boot(self, store: Store) -> tuple[int, int]:
        """Raise the boot counter and the incarnation, durably, before anything is said under them."""
        boot = int.from_bytes(store.get_meta("boot") or b"", "big") + 1
        incarnation = int.from_bytes(store.get_meta("incarnation") or b"", "big") + 1
        numbers = {"boot": boot, "incarnation": incarnation}
        store.write(Put("meta", {"key": key, "value": value.to_bytes(8, "big")}) for key, value in numbers.items())
        return boot, incarnation


def read_key(path: Path) -> Identity:
    """The private key in ``path``."""
    try:
        seed = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if len(seed) != KEY_BYTES:
        raise ValueError(f"{path} is damaged: {len(seed)} bytes, not {KEY_BYTES}; restore it from a backup")
    return Identity(seed)


def write_key(path: Path, key: Identity) -> None:
    """Keep ``key`` in ``path``, whole or not at all, for this user only, durable on return."""
    part = path.with_suffix(".part")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(key.seed)
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in ``path`` durable."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def certify(
    issuer: Identity,
    roster: Roster,
    mesh_id: bytes,
    node: bytes,
    name: str,
    roles: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    now: Instant,
) -> tuple[bytes, bytes]:
    """A certificate and a TLS leaf for ``node``. ``ValueError`` when name, roles or labels are out of bounds."""
    entry = roster.issuer(issuer.id)
    if entry is None:
        raise ValueError("this node may not issue certificates: the roster does not name it")
    begin, end = now.wall_ms - BACKDATE_MS, now.wall_ms + VALID_MS
    certificate = issue(issuer, mesh_id, Certificate(node, name, roles, labels, begin, end, issuer.id))
    return certificate, tls.leaf(issuer, entry.anchor, node, begin, end, _serial())


def _newest(meta: dict[str, bytes]) -> tuple[bytes, ...]:
    """The roster chain that holds: what the mesh gave us, or what this node signed itself and had not yet told when it died."""
    chain = tuple(unpack(meta["roster"], list[bytes], CHAIN_BYTES))
    promoted = tuple(unpack(meta[PROMOTED], list[bytes], CHAIN_BYTES)) if PROMOTED in meta else ()
    return promoted if promoted[: len(chain)] == chain else chain


def _rotated(meta: dict[str, bytes], node: bytes) -> dict[str, bytes]:
    """The rows of ``meta`` that belong to the key ``node``, if it is the one that replaced this node's a moment ago."""
    if not meta.get(ROTATED):
        return {}
    certificate, leaf, chain, claim = unpack(meta[ROTATED], tuple[bytes, bytes, bytes, bytes], CHAIN_BYTES)
    if read_certificate(certificate).node != node:
        return {}
    known = unpack(meta.get("revocations", pack([])), list[bytes], CHAIN_BYTES)
    newer = len(unpack(chain, list[bytes], CHAIN_BYTES)) > len(_newest(meta))
    values = {"certificate": certificate, "leaf": leaf, "revocations": pack([*(other for other in known if other != claim), claim])}
    return values | ({"roster": chain} if newer else {})


def mesh_text(mesh_id: bytes) -> str:
    """A mesh's id as people see it."""
    return node_text(mesh_id)


def _serial() -> int:
    return 1 + secrets.randbits(120)
