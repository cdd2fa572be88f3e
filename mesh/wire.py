"""The messages that members exchange, inside sealed datagrams and TLS streams alike (docs/wire.md)."""

from typing import cast, get_args

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.checkpoint import Bundle

SignedClaim = tuple[bytes, bytes]
"""A signed claim and the certificate of its subject; the certificate is empty in accusations."""

VectorItem = tuple[bytes, int, int]
"""Node, generation, and how many of its entries the sender holds (numbers 0 to n-1)."""


ForkProof = tuple[bytes, bytes]
"""Two signed entries for one place."""


class Ping(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Are you there? SWIM section 3.1. ``digest`` sums up all the sender knows; ``claims`` ride along."""

    sequence: int
    digest: bytes
    claims: tuple[SignedClaim, ...]


class Ack(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Yes. Also sent by a relay for the member it probed."""

    sequence: int
    digest: bytes
    claims: tuple[SignedClaim, ...]


class PingRequest(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Probe ``target`` for me (SWIM section 3.1)."""

    sequence: int
    target: bytes


class Nack(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """I, the relay, am well, but ``target`` of your request did not answer in time (Lifeguard section IV-A)."""

    sequence: int


class Claims(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Gossip between probes."""

    claims: tuple[SignedClaim, ...]


class Push(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Signed feed entries, byte for byte as their authors signed them. With ``answer``, the author wants to know."""

    entries: tuple[bytes, ...]
    answer: bool


class Got(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The sender holds these entries durably."""

    references: tuple[VectorItem, ...]


class PushPull(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """All that the sender knows, in brief; the receiver sends what is missing, and its own if ``reply``.

    ``claims`` has the sender's own; ``heads`` (node, incarnation, left) for every other member; ``rosters`` how many it has,
    ``roster`` the first 8 bytes of the newest one's SHA-256; ``bases`` where pruned histories begin at the sender (numbers below are
    covered); ``forgers`` of whom it has a fork proof.
    """

    claims: tuple[SignedClaim, ...]
    heads: tuple[tuple[bytes, int, bool], ...]
    vector: tuple[VectorItem, ...]
    rosters: int
    reply: bool
    roster: bytes = b""
    bases: tuple[VectorItem, ...] = ()
    forgers: tuple[bytes, ...] = ()


class Direct(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A message of the layer above, to one member."""

    body: bytes


class Rosters(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The chain of signed rosters, oldest first."""

    chain: tuple[bytes, ...]


class Relay(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Pass these entries on to every member with ``first`` <= id <= ``last``, and keep them."""

    entries: tuple[bytes, ...]
    first: bytes
    last: bytes


class Propose(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """May the sender's history begin here? A signed checkpoint."""

    statement: bytes


class Cosigned(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """Yes: the sender of this holds the same, durably."""

    data: bytes


class Bundles(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Checkpoints with their co-signatures."""

    bundles: tuple[Bundle, ...]


class Forks(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Proofs against those who forked their feeds."""

    proofs: tuple[ForkProof, ...]


Message = Ping | Ack | PingRequest | Nack | Claims | Push | Got | PushPull | Direct | Rosters | Relay | Propose | Cosigned | Bundles | Forks

_BY_TAG: dict[bytes, type[Message]] = {
    bytes([0x90 + size, int(kind.__struct_config__.tag or 0)]): kind for kind in get_args(Message) for size in range(1, 16)
}
"""How a message begins: the header of a short array, and the tag."""


def encode(message: Message) -> bytes:
    """The bytes of one message."""
    return pack(message)


def decode(data: bytes, limit: int) -> Message:
    """One message of at most ``limit`` bytes. Raises ``RemoteProtocolError``."""
    if len(data) <= limit and (kind := _BY_TAG.get(data[:2])) is not None:
        try:
            return unpack(data, kind, limit)
        except RemoteProtocolError:
            raise RemoteProtocolError("malformed message") from None
    # A union is a valid target of msgspec.convert, though not of type[T]. It is taken apart anew for each message: 30 times as slow.
    return unpack(data, cast("type[Message]", Message), limit)
