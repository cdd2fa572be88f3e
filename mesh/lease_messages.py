"""What candidates, voters and gates say to each other about leases, inside sealed datagrams like every other message.

The sender is known by its session; only what must convince third parties (a grant, a seal, a forced epoch) is signed in itself.
"""

from typing import cast

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.roster import COUNTERS, LEASE_MS
from cloudisense.mesh.token import check_key

NONCE_BYTES = 16
MAX_SIGNED_BYTES = 512
MAX_MESSAGE_BYTES = 1024
MAX_LEFT_MS = 2 * LEASE_MS[-1]

HALTED = "halted"
STRANGER = "not a voter"
EPOCH = "other epoch"
SEALED = "sealed"
QUIET = "quiet after a start"
HELD = "held"
SPENT = "round spent"
FAR = "round too far"
FULL = "too many keys"
QUOTA = "too many leases"
REASONS = frozenset({HALTED, STRANGER, EPOCH, SEALED, QUIET, HELD, SPENT, FAR, FULL, QUOTA})
"""Why a voter says no."""


def _bounded(condition: bool) -> None:
    if not condition:
        raise ValueError("lease: a field is out of bounds")


class LeaseRequest(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Grant me ``key``, as ``(epoch, round, sender)``. Sent again with the same token and a new nonce, it renews."""

    key: str
    epoch: int
    round: int
    nonce: bytes

    def __post_init__(self) -> None:
        check_key(self.key)
        _bounded(self.epoch in COUNTERS and self.round in COUNTERS and len(self.nonce) == NONCE_BYTES)


class LeaseGranted(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Yes: a signed ``Grant``."""

    grant: bytes

    def __post_init__(self) -> None:
        _bounded(len(self.grant) <= MAX_SIGNED_BYTES)


class LeaseDenied(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """No: ``reason``, the voter's newest epoch, the highest round it promised for the key, and how long the obstacle lasts at most."""

    key: str
    nonce: bytes
    reason: str
    epoch: int
    round: int
    left_ms: int

    def __post_init__(self) -> None:
        check_key(self.key)
        _bounded(len(self.nonce) == NONCE_BYTES and self.reason in REASONS)
        _bounded(self.epoch in COUNTERS and self.round in COUNTERS and 0 <= self.left_ms <= MAX_LEFT_MS)


class LeaseReleased(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """The sender holds ``key`` as this token no more, and will not again."""

    key: str
    epoch: int
    round: int

    def __post_init__(self) -> None:
        check_key(self.key)
        _bounded(self.epoch in COUNTERS and self.round in COUNTERS)


class SealAsk(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """Have you sealed all below ``epoch``? By a voter that would begin it."""

    epoch: int

    def __post_init__(self) -> None:
        _bounded(self.epoch in COUNTERS)


class Sealed(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """A signed ``Seal``."""

    seal: bytes

    def __post_init__(self) -> None:
        _bounded(len(self.seal) <= MAX_SIGNED_BYTES)


class EpochForced(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """An operator's signed ``Forced``."""

    forced: bytes

    def __post_init__(self) -> None:
        _bounded(len(self.forced) <= MAX_SIGNED_BYTES)


LeaseMessage = LeaseRequest | LeaseGranted | LeaseDenied | LeaseReleased | SealAsk | Sealed | EpochForced


def encode(message: LeaseMessage) -> bytes:
    """The bytes of one message."""
    return pack(message)


def decode(data: bytes) -> LeaseMessage:
    """One message. Raises ``RemoteProtocolError``."""
    return unpack(data, cast("type[LeaseMessage]", LeaseMessage), MAX_MESSAGE_BYTES)
