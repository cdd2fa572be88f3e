"""What the mesh asks of the world. The shell carries each one out; the core never does."""

from collections.abc import Mapping
from dataclasses import dataclass, field

Address = tuple[str, int]
"""Host (an IP address in text) and port; UDP and TLS listen on the same number."""

Scalar = str | int | float | bytes | None


@dataclass(frozen=True, slots=True)
class Put:
    """One row to upsert into one durable table, by the key that ``cloudisense.store`` names for it."""

    table: str
    row: Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one row, named by its whole key; fine where there is none."""

    table: str
    key: Mapping[str, Scalar]


Row = Put | Delete


@dataclass(frozen=True, slots=True)
class Send:
    """Send one datagram, already sealed (or a hello in the clear), to ``address``."""

    address: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class SendBulk:
    """Deliver ``data``, a message too large for a datagram, to node ``to`` over TLS at ``address``.

    Best effort, like a datagram: nothing comes back but the peer's own messages.
    """

    to: bytes
    address: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Knock:
    """Connect to ``address`` by TCP and try to speak TLS, within ``wait_ms``; answered by ``Knocked(token)``.

    ``spoke`` is only for a server that proves to be ``node``.
    """

    token: int
    node: bytes
    address: Address
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Persist:
    """Make ``rows`` durable together, then report ``Persisted(token)``. Order is kept."""

    token: int
    rows: tuple[Row, ...] = field(default=())
