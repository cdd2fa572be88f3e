"""Identity: an Ed25519 key (RFC 8032). The node id is the public key.

Three things that the library does not refuse are refused here, because each lets two parties disagree on who signed:
small-order public keys (one signature then verifies for every message), encodings with y >= p (one point, several ids),
and signatures with S >= L (one signature, several forms).
"""

import base64
import re
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cloudisense.keys.errors import LocalProtocolError, RemoteProtocolError
from cloudisense.keys.given import Rng

NodeId = bytes
"""An Ed25519 public key, 32 bytes."""

NODE_ID_BYTES = 32
SIGNATURE_BYTES = 64
MESH_ID_BYTES = 32
NODE_TEXT_CHARS = 52

_DOMAIN = b"cloudisense/1|"
_TYPE = re.compile(r"[a-z0-9_]{1,32}")

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_L = 2**252 + 27742317777372353535851937790883648493
_Y_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y coordinates of all eight points of small order: orders 1, 2, 4 and 8 (both signs of x share a y).
_SMALL_ORDER_Y = frozenset({1, _P - 1, 0, _Y_ORDER_8, _P - _Y_ORDER_8})


def node_text(node: NodeId) -> str:
    """``node`` for people and host names: 52 characters of lower-case base32 (RFC 4648) without padding."""
    if len(node) != NODE_ID_BYTES:
        raise LocalProtocolError("a node id has 32 bytes")
    return base64.b32encode(node).decode("ascii").rstrip("=").lower()


def parse_node_text(text: str) -> NodeId:
    """The node id that ``node_text`` wrote as ``text``; ``ValueError`` for any other text."""
    try:
        node = base64.b32decode(text.upper() + "====", casefold=False)
    except ValueError:
        node = b""
    # Writing it again refuses upper case, wrong lengths, and the spare bits of the last character.
    if len(node) != NODE_ID_BYTES or node_text(node) != text:
        raise ValueError(f"not a node id (52 characters of a-z and 2-7): {text[:64]!r}")
    return node


def checked_public_key(raw: bytes) -> NodeId:
    """``raw`` as a node id.

    Raises ``RemoteProtocolError`` for a wrong length, a non-canonical encoding (y >= p), a point of small order, and
    a y that no point of the curve has.
    """
    _public_key(bytes(raw))
    return bytes(raw)


class Identity:
    """One node's, root's or operator's signing key. Never printed: ``repr`` shows the public half only."""

    def __init__(self, seed: bytes) -> None:
        """From the 32-byte Ed25519 seed; ``ValueError`` for another length."""
        if len(seed) != 32:
            raise ValueError("an identity seed has 32 bytes")
        self._seed = bytes(seed)
        self._key = Ed25519PrivateKey.from_private_bytes(self._seed)
        self._id: NodeId = self._key.public_key().public_bytes_raw()

    @classmethod
    def generate(cls, rng: Rng) -> "Identity":
        """A new one from ``rng``, which must be the system's unless this is a simulation."""
        return cls(rng.randbytes(32))

    @property
    def id(self) -> NodeId:
        """The public key: the node id."""
        return self._id

    @property
    def seed(self) -> bytes:
        """The secret, for storing."""
        return self._seed

    @property
    def private_key(self) -> Ed25519PrivateKey:
        """The secret as ``cryptography`` wants it, for X.509 (``keys.tls``)."""
        return self._key

    def sign(self, type_: str, mesh_id: bytes, body: bytes) -> bytes:
        """The 64-byte signature over ``"cloudisense/1|" type "|" mesh_id "|" body``."""
        return self._key.sign(_signed_bytes(type_, mesh_id, body))

    def __repr__(self) -> str:
        return f"Identity({node_text(self._id)})"


def verify(node: NodeId, type_: str, mesh_id: bytes, body: bytes, signature: bytes) -> bool:
    """Whether ``node`` signed ``body`` as ``type_`` in ``mesh_id``. A key or a signature in bad form is a plain no."""
    if len(signature) != SIGNATURE_BYTES or int.from_bytes(signature[32:], "little") >= _L:
        return False
    try:
        _public_key(bytes(node)).verify(signature, _signed_bytes(type_, mesh_id, body))
    except (InvalidSignature, RemoteProtocolError):
        return False
    return True


def is_type(text: str) -> bool:
    """Whether ``text`` may be a signed type: 1 to 32 characters of ``[a-z0-9_]``."""
    return _TYPE.fullmatch(text) is not None


def _signed_bytes(type_: str, mesh_id: bytes, body: bytes) -> bytes:
    # Unambiguous: the type has no "|" in it and the mesh id has a fixed length.
    if not is_type(type_):
        raise LocalProtocolError(f"not a type that can be signed: {type_!r}")
    if len(mesh_id) != MESH_ID_BYTES:
        raise LocalProtocolError("a mesh id has 32 bytes")
    return b"%s%s|%s|%s" % (_DOMAIN, type_.encode("ascii"), mesh_id, body)


@lru_cache(maxsize=4096)
def _public_key(raw: bytes) -> Ed25519PublicKey:
    """``raw`` checked and parsed. The cache is a bounded memo of a pure function; junk is not kept in it."""
    if len(raw) != NODE_ID_BYTES:
        raise RemoteProtocolError("public key has the wrong length")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _P:
        raise RemoteProtocolError("public key is not canonical")
    if y in _SMALL_ORDER_Y:
        raise RemoteProtocolError("public key has small order")
    # x^2 = (y^2 - 1) / (d y^2 + 1) must be a square: Euler's criterion on u * v, which is a square when u / v is.
    u, v = y * y - 1, _D * y * y + 1
    if pow(u * v % _P, (_P - 1) // 2, _P) != 1:
        raise RemoteProtocolError("public key is not on the curve")
    return Ed25519PublicKey.from_public_bytes(raw)
