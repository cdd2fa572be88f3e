"""Who is in the mesh, as far as this node knows: SWIM's claims and the rules that order them.

``alive``, ``left`` and ``restarting`` are signed by their subject, ``suspect`` by the accuser. Nobody can say that another is
dead: each node concludes it from enough accusers, each of whom saw its own probe fail (DESIGN section 3.2).
"""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from cloudisense.keys.certificate import Certificate
from cloudisense.mesh.effects import Address

State = Literal["alive", "suspect", "agent_down", "stalled", "dead", "left", "unreachable"]

PRESENT: frozenset[str] = frozenset({"alive", "suspect"})
"""Counted on: told news, asked to relay, waited for."""
PROBED: frozenset[str] = PRESENT | {"agent_down", "stalled"}
LOST: frozenset[str] = frozenset({"dead", "unreachable"})
"""Not probed, but greeted now and then, for ever."""


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
    """My own probe of ``accused`` failed while it claimed ``incarnation``; ``evidence`` is one of ``silence.Evidence``."""

    accused: bytes
    incarnation: int
    accuser: bytes
    evidence: Literal["silent", "mute", "refused"]


class Left(msgspec.Struct, frozen=True, array_like=True):
    """I go on purpose."""

    node: bytes
    incarnation: int


class Restarting(msgspec.Struct, frozen=True, array_like=True):
    """My agent stops for a moment; my host stays up."""

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
    evidence: dict[bytes, str] = field(default_factory=dict[bytes, str])
    """Accuser -> what its probe met, about what the member claims now."""
    suspected_ns: int = 0
    lost_ns: int = 0
    tried_ns: int = 0
    mismatches: int = 0
    departure: bytes = b""
    """The signed word with which it left."""

    @property
    def address(self) -> Address:
        return (self.alive.host, self.alive.port)

    @property
    def present(self) -> bool:
        return self.state in PRESENT


def alive_wins(known: Member | None, claim: Alive) -> bool:
    """SWIM section 4.2: only a higher incarnation overrides what is known, whatever the state."""
    return known is None or claim.incarnation > known.alive.incarnation


def accusation_counts(known: Member, claim: Suspect) -> bool:
    """An accusation is about what the accused claims now, and tells something that its accuser has not said yet.

    SWIM lets a higher incarnation count too. Here it would let one accusation of a made-up height outlive every refutation.
    """
    probed = known.state in PROBED and claim.incarnation == known.alive.incarnation
    return probed and known.evidence.get(claim.accuser) != claim.evidence


def departure_counts(known: Member, claim: Left | Restarting) -> bool:
    """A leave is final for its incarnation; so is the announcement of a restart, until the next one."""
    return known.state != "left" and claim.incarnation >= known.alive.incarnation
