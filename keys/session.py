"""Session: pairwise sealed datagrams between two boots of two nodes (DESIGN section 3.1).

A pair derives two ChaCha20-Poly1305 keys (RFC 8439), one per direction, with HKDF-SHA256 (RFC 5869) over the X25519
exchange (RFC 7748) of their session keys. No handshake: each side learns the other's key from a signed ``alive`` claim.

    offset  0        1     2                10             18               26
            version  type  receiver key id  sender key id  counter (u64 BE) ciphertext and 16-byte tag
            `---------------- authenticated, in the clear ----------------'

    nonce = 4 zero bytes | counter        salt = mesh id
    info  = "cloudisense/1|session|" | lower node id | its key id | higher node id | its key id
    output = key lower-to-higher (32) | key higher-to-lower (32)

Three rules hold the security up:
* A counter is never used twice under one key. A pair that is dropped and derived again has the same keys, so it goes on
  above a floor kept for the whole life of our session key.
* Check the window, decrypt, and only then move the window: a forger moves nothing.
* All state is bounded: peers, two keys per peer, two keys of our own.
"""

import hashlib
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError, invariant
from cloudisense.keys.given import Now, Rng
from cloudisense.keys.identity import MESH_ID_BYTES, NODE_ID_BYTES, NodeId
from cloudisense.keys.window import ReplayWindow

VERSION = 1
SEALED = 1
HELLO = 2
"""The type byte of a hello in the clear; the mesh builds those, after the same two bytes of version and type."""

KEY_ID_BYTES = 8
HEADER_BYTES = 26
TAG_BYTES = 16
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES
MAX_DATAGRAM_BYTES = 65_507
"""What UDP over IPv4 can carry."""

OLD_KEY_GOOD_NS = 120 * 1_000_000_000
"""How long a superseded key still opens datagrams."""

MAX_PEERS = 10_000
MAX_RETIRED = 20_000
"""Replay positions kept of pairs that were dropped, in case their keys are learnt again."""

_KEY_BYTES = 32
_INFO_DOMAIN = b"cloudisense/1|session|"
_SEALED_START = bytes([VERSION, SEALED])
_MAX_COUNTER = 2**64 - 1

_P = 2**255 - 19
_U_ORDER_8 = 0x00B8495F16056286FDB1329CEB8D09DA6AC49FF1FAE35616AEB8413B7C7AEBE0
_U_ORDER_8_TWIN = 0x57119FD0DD4E22D8868E1C58C45C44045BEF839C55B1D0B1248C50A3BC959C5F
# The u coordinates of order 1, 2, 4 and 8 on the curve and its twist: with them the exchange yields zero for every secret.
_LOW_ORDER_U = frozenset({0, 1, _P - 1, _U_ORDER_8, _U_ORDER_8_TWIN})


def is_sealed(datagram: bytes) -> bool:
    """Whether ``datagram`` says that it is sealed; ``Sessions.open`` decides."""
    return datagram[:2] == _SEALED_START


def checked_session_key(raw: bytes) -> bytes:
    """``raw`` as a peer's session public key; ``RemoteProtocolError`` for a wrong length, a non-canonical form or a low order."""
    u = int.from_bytes(raw, "little")
    if len(raw) != _KEY_BYTES or u >= _P or u in _LOW_ORDER_U:
        raise RemoteProtocolError("bad session key")
    return bytes(raw)


def key_id(session_public: bytes) -> bytes:
    """The 8 bytes that name a session key in a header."""
    return hashlib.sha256(session_public).digest()[:KEY_ID_BYTES]


class SessionKey:
    """The X25519 key of one boot (or of one period of it). Never stored."""

    def __init__(self, secret: bytes) -> None:
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()
        self.id = key_id(self.public)

    @classmethod
    def generate(cls, rng: Rng) -> "SessionKey":
        """A new one from ``rng``, which must be the system's unless this is a simulation."""
        return cls(rng.randbytes(_KEY_BYTES))

    def exchange(self, public: bytes) -> bytes:
        """The shared secret; ``RemoteProtocolError`` where it would be zero."""
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise RemoteProtocolError("bad session key") from None


@dataclass(slots=True)
class _Pair:
    """One of our keys with one of a peer's: two directions, a counter out, a window in."""

    out: ChaCha20Poly1305
    into: ChaCha20Poly1305
    start: bytes
    """The first 18 bytes of every header that we send."""
    counter: int
    window: ReplayWindow


@dataclass(slots=True)
class _Own:
    """One of our session keys with everything that was derived from it; dropped as a whole."""

    key: SessionKey
    pairs: dict[tuple[NodeId, bytes], _Pair] = field(default_factory=dict[tuple[NodeId, bytes], _Pair])
    floor: int = 0
    """No dropped pair used a counter at or above it, so every new pair starts here."""
    retired: dict[tuple[NodeId, bytes], int] = field(default_factory=dict[tuple[NodeId, bytes], int])
    """The highest counter accepted by a dropped pair; oldest first."""

    def drop(self, peer: NodeId, id_: bytes) -> None:
        pair = self.pairs.pop((peer, id_), None)
        if pair is None:
            return
        self.floor = max(self.floor, pair.counter)
        self.retired[peer, id_] = pair.window.highest
        if len(self.retired) > MAX_RETIRED:
            del self.retired[next(iter(self.retired))]


@dataclass(slots=True)
class _Peer:
    public: bytes
    id: bytes
    old_public: bytes = b""
    old_id: bytes = b""
    old_until_ns: int = 0
    seals_to_old: bool = False
    """True while the peer may not yet know our newest key."""


class Sessions:
    """All sealed conversations of one node. After a ``RemoteProtocolError`` no key, counter or window has changed."""

    def __init__(self, identity_id: NodeId, mesh_id: bytes, key: SessionKey) -> None:
        if len(identity_id) != NODE_ID_BYTES or len(mesh_id) != MESH_ID_BYTES:
            raise LocalProtocolError("a node id and a mesh id have 32 bytes")
        self._id = identity_id
        self._mesh_id = mesh_id
        self._own = _Own(key)
        self._old_own: _Own | None = None
        self._old_own_until_ns = 0
        self._peers: dict[NodeId, _Peer] = {}
        # A member may claim another's key as its own to shadow it, so one id may have several claimants.
        self._claimants: dict[bytes, list[NodeId]] = {}

    @property
    def key(self) -> SessionKey:
        """Our newest session key: the one to publish."""
        return self._own.key

    def knows(self, peer: NodeId) -> bool:
        """Whether ``seal(peer, ...)`` can work."""
        return peer in self._peers

    def learn(self, peer: NodeId, session_public: bytes, now: Now, same_boot: bool = False) -> None:
        """Take ``session_public`` from an accepted ``alive`` claim of ``peer``. The key before it opens for two more minutes.

        With ``same_boot`` the peer has not restarted, so it still holds what it knew of us.

        Cheap: nothing is derived before it is needed. Raises ``RemoteProtocolError("bad session key")`` or ``("too many peers")``.
        """
        if peer == self._id or len(peer) != NODE_ID_BYTES:
            raise LocalProtocolError("a peer is another node")
        public = checked_session_key(session_public)
        self._end_old_key(now)
        known = self._peers.get(peer)
        if known is None:
            if len(self._peers) >= MAX_PEERS:
                raise RemoteProtocolError("too many peers", peer)
            self._peers[peer] = _Peer(public, key_id(public))
            self._claim(peer, key_id(public))
            return
        if known.public == public:
            return
        if known.old_id and known.old_public != public:
            self._unclaim(peer, known.old_id)
        if known.old_public != public:
            self._claim(peer, key_id(public))
        known.old_public, known.old_id, known.old_until_ns = known.public, known.id, now.boot_ns + OLD_KEY_GOOD_NS
        known.public, known.id = public, key_id(public)
        if not same_boot:
            known.seals_to_old = False  # it restarted, and a new boot knows only our newest claim

    def forget(self, peer: NodeId) -> None:
        """Drop all keys of ``peer``; nothing happens when there are none."""
        known = self._peers.pop(peer, None)
        if known is not None:
            self._unclaim(peer, known.id)
            if known.old_id:
                self._unclaim(peer, known.old_id)

    def rotate(self, new_key: SessionKey, now: Now) -> None:
        """Go over to ``new_key``, which the caller publishes at once; the one before it opens for two more minutes.

        A known peer is sent to under the old key until it has used the new one, or the old one ends: it cannot open what
        names a key that it has not learnt.
        """
        if new_key.id == self._own.key.id:
            raise LocalProtocolError("the session key is the same")
        self._old_own, self._old_own_until_ns = self._own, now.boot_ns + OLD_KEY_GOOD_NS
        self._own = _Own(new_key)
        for peer in self._peers.values():
            peer.seals_to_old = True

    def seal(self, peer: NodeId, plaintext: bytes) -> bytes:
        """The datagram that only ``peer`` can open. ``LocalProtocolError`` when it is unknown or the plaintext too long."""
        known = self._peers.get(peer)
        if known is None:
            raise LocalProtocolError("no session key of that peer")
        if len(plaintext) > MAX_DATAGRAM_BYTES - OVERHEAD_BYTES:
            raise LocalProtocolError("too long for a datagram")
        own = self._old_own if known.seals_to_old and self._old_own is not None else self._own
        pair = self._pair(own, peer, known.public, known.id)
        counter = pair.counter
        invariant(counter < _MAX_COUNTER, "a session counter is never used twice")
        pair.counter = counter + 1
        counter_bytes = counter.to_bytes(8, "big")
        header = pair.start + counter_bytes
        return header + pair.out.encrypt(b"\0\0\0\0" + counter_bytes, plaintext, header)

    def open(self, datagram: bytes, now: Now) -> tuple[NodeId, bytes]:
        """Who sealed ``datagram``, and what it says; each datagram once.

        Raises ``RemoteProtocolError``: ``malformed``, ``for another key``, ``unknown key`` (answer with a hello),
        ``replayed``, ``not authentic``.
        """
        if not is_sealed(datagram) or not OVERHEAD_BYTES <= len(datagram) <= MAX_DATAGRAM_BYTES:
            raise RemoteProtocolError("malformed")
        self._end_old_key(now)
        own = self._own_key(datagram[2:10])
        sender_id = datagram[10:18]
        counter = int.from_bytes(datagram[18:26], "big")
        reason = "unknown key"
        for peer in self._claimants.get(sender_id, ()):
            public = self._public(peer, sender_id, now)
            if public is None:
                continue
            pair = self._pair(own, peer, public, sender_id)
            if not pair.window.is_fresh(counter):
                reason = "replayed"
                continue
            try:
                plaintext = pair.into.decrypt(b"\0\0\0\0" + datagram[18:26], datagram[26:], datagram[:26])
            except InvalidTag:
                reason = reason if reason == "replayed" else "not authentic"
                continue
            pair.window.accept(counter)
            if own is self._own:
                self._peers[peer].seals_to_old = False
            return peer, plaintext
        raise RemoteProtocolError(reason)

    def _end_old_key(self, now: Now) -> None:
        if self._old_own is not None and now.boot_ns >= self._old_own_until_ns:
            self._old_own = None

    def _own_key(self, receiver_id: bytes) -> _Own:
        for own in (self._own, self._old_own):
            if own is not None and own.key.id == receiver_id:
                return own
        raise RemoteProtocolError("for another key")

    def _public(self, peer: NodeId, id_: bytes, now: Now) -> bytes | None:
        """The key of ``peer`` that ``id_`` names, unless it ended."""
        known = self._peers[peer]
        if id_ == known.id:
            return known.public
        return known.old_public if now.boot_ns < known.old_until_ns else None

    def _pair(self, own: _Own, peer: NodeId, public: bytes, id_: bytes) -> _Pair:
        pair = own.pairs.get((peer, id_))
        if pair is None:
            pair = self._derive(own, peer, public, id_)
            own.pairs[peer, id_] = pair
        return pair

    def _derive(self, own: _Own, peer: NodeId, public: bytes, id_: bytes) -> _Pair:
        we_are_lower = self._id < peer
        ours, theirs = self._id + own.key.id, peer + id_
        info = _INFO_DOMAIN + (ours + theirs if we_are_lower else theirs + ours)
        keys = self.keys_of_pair(own.key, public, info)
        up, down = ChaCha20Poly1305(keys[:32]), ChaCha20Poly1305(keys[32:])
        out, into = (up, down) if we_are_lower else (down, up)
        window = ReplayWindow(own.retired.pop((peer, id_), -1))
        return _Pair(out, into, _SEALED_START + id_ + own.key.id, own.floor, window)

    def keys_of_pair(self, own: SessionKey, public: bytes, info: bytes) -> bytes:
        """Two keys of 32 bytes, one for each direction, that only the two sides can know. The simulator's are cheaper (``sim.fast``)."""
        return HKDF(SHA256(), 64, salt=self._mesh_id, info=info).derive(own.exchange(public))

    def _claim(self, peer: NodeId, id_: bytes) -> None:
        self._claimants.setdefault(id_, []).append(peer)

    def _unclaim(self, peer: NodeId, id_: bytes) -> None:
        claimants = self._claimants[id_]
        claimants.remove(peer)
        if not claimants:
            del self._claimants[id_]
        for own in (self._own, self._old_own):
            if own is not None:
                own.drop(peer, id_)
