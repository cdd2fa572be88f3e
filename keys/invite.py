"""Invite: one line of text that lets a new host find the mesh, check it, and be let in by the one issuer that it names.

The text carries the secret; the issuer stores only its hash, and spends the record durably before it issues.
A checksum tells a slip in copying from a refusal. Case, and blanks that a terminal or a mail put in, do not matter.
"""

import base64
import hashlib
import hmac
import re

import msgspec

from cloudisense.keys.certificate import MAX_MS, ROLES
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.given import Rng
from cloudisense.keys.identity import MESH_ID_BYTES, NODE_ID_BYTES, NodeId

PREFIX = "cloudisense-join-"
SECRET_BYTES = 16
MAX_ADDRESSES = 4
MAX_USES = 10_000
MAX_TOKEN_CHARS = 4096

_VERSION = 1
_CHECKSUM_BYTES = 4
_CHECKSUM_DOMAIN = b"cloudisense/1|invite checksum|"
_SECRET_DOMAIN = b"cloudisense/1|invite secret|"
_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,253}")
_NOT_OURS = "this is not a CloudiSENSE invite"
_DAMAGED = "the invite is damaged: a character is wrong or missing; copy it again"


class Token(msgspec.Struct, frozen=True, array_like=True):
    """What the text holds."""

    version: int
    mesh_id: bytes
    issuer: bytes
    """The node that made it, and the only one that can redeem it."""
    addresses: tuple[tuple[str, int], ...]
    """Where to find the issuer: 1 to 4 (host, port)."""
    secret: bytes
    expires_ms: int

    def __post_init__(self) -> None:
        if not 1 <= len(self.addresses) <= MAX_ADDRESSES:
            raise ValueError(f"an invite holds 1 to {MAX_ADDRESSES} addresses")
        for host, port in self.addresses:
            if not _HOST.fullmatch(host) or not 1 <= port <= 65535:
                raise ValueError(f"not an address for an invite: {host[:64]}:{port}")
        if not 0 <= self.expires_ms <= MAX_MS:
            raise ValueError("the invite's end is out of bounds")
        if (len(self.mesh_id), len(self.issuer), len(self.secret)) != (MESH_ID_BYTES, NODE_ID_BYTES, SECRET_BYTES):
            raise ValueError("invite: a field has the wrong length")

    def expired(self, wall_ms: int) -> bool:
        """Whether it is over at Unix time ``wall_ms``."""
        return wall_ms >= self.expires_ms


class InviteRecord(msgspec.Struct, frozen=True, array_like=True):
    """What the issuer keeps. It cannot be turned back into a token."""

    secret_hash: bytes
    roles: tuple[str, ...]
    """What a node gets that redeems it."""
    uses_left: int
    expires_ms: int


def make_invite(
    rng: Rng,
    mesh_id: bytes,
    issuer: NodeId,
    addresses: tuple[tuple[str, int], ...],
    roles: tuple[str, ...],
    uses: int,
    expires_ms: int,
) -> tuple[str, InviteRecord]:
    """A new invite: the text for the new host, and the record for the issuer. ``ValueError`` for bad input."""
    if not roles or len(set(roles)) != len(roles) or not set(roles) <= set(ROLES):
        raise ValueError(f"roles are some of: {' '.join(ROLES)}")
    if not 1 <= uses <= MAX_USES:
        raise ValueError(f"an invite is good for 1 to {MAX_USES} uses")
    token = Token(_VERSION, mesh_id, issuer, addresses, rng.randbytes(SECRET_BYTES), expires_ms)
    payload = pack(token)
    text = PREFIX + base64.b32encode(payload + _checksum(payload)).decode("ascii").rstrip("=").lower()
    return text, InviteRecord(secret_hash(token.secret), roles, uses, expires_ms)


def parse_token(text: str) -> Token:
    """The token in ``text``; ``ValueError`` with a line for the person who pasted it. It may have expired: ask it."""
    tight = "".join(text[: 2 * MAX_TOKEN_CHARS].split()).lower()
    if not tight.startswith(PREFIX):
        raise ValueError(_NOT_OURS)
    code = tight.removeprefix(PREFIX)
    try:
        if len(code) > MAX_TOKEN_CHARS:
            raise ValueError
        raw = base64.b32decode(code.upper() + "=" * (-len(code) % 8))
        canonical = base64.b32encode(raw).decode("ascii").rstrip("=").lower() == code
    except ValueError:  # a character beyond base32 (binascii.Error is one), or beyond ASCII
        raise ValueError(_DAMAGED) from None
    payload, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if not canonical or checksum != _checksum(payload):
        raise ValueError(_DAMAGED)
    try:
        token = unpack(payload, Token, MAX_TOKEN_CHARS)
    except RemoteProtocolError:
        token = None
    if token is None or token.version != _VERSION:
        raise ValueError("this invite was made by another version of CloudiSENSE")
    return token


def secret_hash(secret: bytes) -> bytes:
    """What a record holds of ``secret``: SHA-256 with a domain. The secret has 128 random bits, so no salt and no stretching."""
    return hashlib.sha256(_SECRET_DOMAIN + secret).digest()


def redeem(record: InviteRecord, secret: bytes, wall_ms: int) -> InviteRecord | Refused:
    """``record`` with one use less, to be made durable before anything is issued; or why not."""
    if not hmac.compare_digest(record.secret_hash, secret_hash(secret)):
        return Refused("the invite is not known here")
    if wall_ms >= record.expires_ms:
        return Refused("the invite has expired")
    if record.uses_left < 1:
        return Refused("the invite is used up")
    return msgspec.structs.replace(record, uses_left=record.uses_left - 1)


def _checksum(payload: bytes) -> bytes:
    return hashlib.sha256(_CHECKSUM_DOMAIN + payload).digest()[:_CHECKSUM_BYTES]
