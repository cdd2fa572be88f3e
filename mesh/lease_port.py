"""What the parts of the lease ask of the world, and what they report to the layer above."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Protocol

from cloudisense.mesh.effects import Put
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.lease_messages import LeaseMessage
from cloudisense.mesh.token import Token


@dataclass(frozen=True, slots=True)
class Lease:
    """``key`` is ours as ``token`` until ``until_ns`` on our boot clock, as ``certificate`` proves to others.

    Good for looking at, never for acting on: ask ``Leases.held`` again before every step, for this process may have been frozen.
    """

    key: str
    token: Token
    until_ns: int
    certificate: bytes


@dataclass(frozen=True, slots=True)
class LeaseHeld:
    """We hold it now, or for longer (``renewed``)."""

    lease: Lease
    renewed: bool


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """We hold it no more: it was released, or it ran out."""

    key: str
    token: Token
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseWaits:
    """A try for ``key`` failed for ``reason``; the next is in ``wait_ns``."""

    key: str
    reason: str
    wait_ns: int


@dataclass(frozen=True, slots=True)
class EpochBegun:
    """This node votes in ``epoch`` from now on (and grants once what went before has run out)."""

    epoch: int
    forced: bool


@dataclass(frozen=True, slots=True)
class Behind:
    """``peer`` knows of an epoch that we do not: get its rosters."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class Halted:
    """The root signed two successors: nothing is granted here any more. An alarm for people."""


News = LeaseHeld | LeaseLost | LeaseWaits | EpochBegun | Behind | Halted


class Port(Protocol):
    """The one way out of the lease's parts."""

    def send(self, to: bytes, message: LeaseMessage) -> None:
        """Send to a node, which may be this one."""
        ...

    def persist(self, rows: tuple[Put, ...], then: Callable[[Instant], None]) -> None:
        """Write ``rows`` together; ``then`` runs once they are durable. Order is kept."""
        ...

    def set(self, name: Hashable, at_ns: int) -> None:
        """Wake ``name`` at a boot time."""
        ...

    def cancel(self, name: Hashable) -> None:
        """Do not."""
        ...

    def tell(self, *news: News) -> None:
        """Report to the layer above."""
        ...

    def behind(self, peer: bytes) -> None:
        """``peer`` has rosters that we lack."""
        ...
