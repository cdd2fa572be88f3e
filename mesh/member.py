"""Who is in the mesh, as far as this node knows: SWIM's claims and the rule that orders them.

``alive`` and ``left`` are signed by their subject, ``suspect`` by the accuser. Nobody can say that another is dead:
each node concludes it from enough accusers, each of whom saw its own probe fail (DESIGN section 3.2).
"""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from cloudisense.keys.certificate import Certificate
from cloudisense.mesh.effects import Address

State = Literal["alive", "suspect", "dead", "left"]


class Alive(msgspec.Struct, frozen=True, array_like=True):
    """I am ``node``, here, with this session key. A higher incarnation replaces a lower one."""

    node: bytes
    name: str
    host: str
    port: int
    incarnation: int
    boot: int
    session_public: bytes


class Suspect(msgspec.Struct, frozen=True, array_like=True):
    """My own probe of ``accused`` failed while it claimed ``incarnation``."""

    accused: bytes
    incarnation: int
    accuser: bytes


class Left(msgspec.Struct, frozen=True, array_like=True):
    """I go on purpose."""

    node: bytes
    incarnation: int


@dataclass(slots=True)
class Member:
    """One other node. ``since_ms`` is Unix time of the last change of state, by our clock."""

    node: bytes
    alive: Alive
    claim: bytes
    certificate_data: bytes
    certificate: Certificate
    state: State
    since_ms: int
    accusers: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    """Who accuses it of its present incarnation, each with the signed accusation: what convinces those who come later."""
    suspected_ns: int = 0
    departure: bytes = b""
    """Its signed ``left``."""
    left_at: int = 0
    """The incarnation that it left with."""
    mismatches: int = 0

    @property
    def address(self) -> Address:
        return (self.alive.host, self.alive.port)

    @property
    def present(self) -> bool:
        """Counted on: alive, or only suspected."""
        return self.state in ("alive", "suspect")


def alive_wins(known: Member | None, claim: Alive) -> bool:
    """SWIM section 4.2: only a higher incarnation overrides what is known, whatever the state."""
    return known is None or claim.incarnation > max(known.alive.incarnation, known.left_at)


def accusation_counts(known: Member, claim: Suspect) -> bool:
    """An accusation is about what the accused claims now, of a member that is still counted on, from a new accuser.

    SWIM lets a higher incarnation count too. Here it would let one accusation of a made-up height outlive every refutation.
    """
    return known.present and claim.incarnation == known.alive.incarnation and claim.accuser not in known.accusers


def departure_counts(known: Member, claim: Left) -> bool:
    """A leave is final for its incarnation."""
    return known.state != "left" and claim.incarnation >= known.alive.incarnation
