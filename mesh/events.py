"""What the world reports to the mesh, and what the mesh reports to the agent above it."""

from dataclasses import dataclass

from cloudisense.mesh.effects import Address
from cloudisense.mesh.feed import Entry, Reference


@dataclass(frozen=True, slots=True)
class Persisted:
    """The rows of ``Persist(token)`` are on disk, synced."""

    token: int


@dataclass(frozen=True, slots=True)
class Knocked:
    """Answer to ``Knock``: ``silent``, ``mute``, ``refused`` or ``spoke`` (see ``mesh.silence``)."""

    token: int
    met: str


@dataclass(frozen=True, slots=True)
class PortRefused:
    """The kernel had an ICMP "port unreachable" about ``address``: no socket listens there, but its host is up."""

    address: Address


@dataclass(frozen=True, slots=True)
class SendFailed:
    """The kernel would not send (no route, no buffer, not permitted): our own trouble, and no evidence against anybody."""


@dataclass(frozen=True, slots=True)
class EntryArrived:
    """A signed feed entry, our own or another node's, is verified and durable here."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class EntryDelivered:
    """Every member that was alive when our own entry went out has acknowledged it as durable."""

    reference: Reference


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """``node`` is now ``state`` (see ``mesh.member.State``) as far as this node knows."""

    node: bytes
    state: str


@dataclass(frozen=True, slots=True)
class NameConflict:
    """``node`` is here under the name of ``other``, which is present as well (see ``mesh.naming``)."""

    node: bytes
    other: bytes


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """``node`` was caught: ``forked`` (proven, and final), ``over quota`` or, only ourselves, ``cloned`` (told once per start)."""

    node: bytes
    what: str


@dataclass(frozen=True, slots=True)
class RosterChanged:
    """A newer roster holds now; whoever it revokes is cut off here already."""

    number: int


@dataclass(frozen=True, slots=True)
class RosterRival:
    """The root signed another roster beside our ``number``: nothing changes any more until a person upholds one of them."""

    number: int


@dataclass(frozen=True, slots=True)
class DirectReceived:
    """``peer``, authenticated, sent us ``body``; best effort, may repeat, may reorder."""

    peer: bytes
    body: bytes
