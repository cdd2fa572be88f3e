"""One host of the lease's world: its clock, its disk, its process; and the cheap stand-in for signatures."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudisense.keys.encoding import unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.lease import Leases

PPM = 1_000_000
PROMISE = "lease/promise/"


class Stamps:
    """Signs with a hash that anybody could make. Nobody in a simulation forges, so the lease cannot tell it from the real thing."""

    def __init__(self, id_: bytes) -> None:
        self.id = id_

    def sign(self, kind: str, body: bytes) -> bytes:
        """Id, stamp, body."""
        return self.id + _stamp(self.id, kind, body) + body

    def open(self, data: bytes, kind: str, limit: int) -> tuple[bytes, bytes]:
        """Signer and body. Raises ``RemoteProtocolError``."""
        signer, stamp, body = data[:32], data[32:48], data[48:]
        if len(data) > limit or _stamp(signer, kind, body) != stamp:
            raise RemoteProtocolError("bad signature", signer)
        return signer, body


def _stamp(id_: bytes, kind: str, body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=16, key=id_, person=kind.encode()[:16]).digest()


class HostClock:
    """A boot clock that runs at ``ppm`` of true time; 0 is a clock that stands, as when a hypervisor stops its guest."""

    def __init__(self, true_ns: int, own_ns: int, ppm: int) -> None:
        self._true_ns = true_ns
        self._own_ns = own_ns
        self.ppm = ppm
        self.stood_at_ns = -1
        """What it read when it last stood still."""

    def read(self, true_ns: int) -> int:
        """What it shows at a true time."""
        return self._own_ns + (true_ns - self._true_ns) * self.ppm // PPM

    def change(self, true_ns: int, ppm: int) -> None:
        """From now on it runs at ``ppm``."""
        self._own_ns, self._true_ns = self.read(true_ns), true_ns
        self.ppm = ppm
        if ppm == 0:
            self.stood_at_ns = self._own_ns

    def when(self, own_ns: int) -> int | None:
        """The true time at which it shows ``own_ns`` at least; never while it stands."""
        return None if self.ppm == 0 else self._true_ns + -(-(own_ns - self._own_ns) * PPM // self.ppm)


@dataclass(slots=True)
class LeaseHost:
    """``leases`` is ``None`` while its process is down; ``gone`` hosts never come back."""

    index: int
    id: bytes
    clock: HostClock
    base_ppm: int
    sync_ns: tuple[int, int]
    """How long a write takes, at least and at most."""
    rosters: int = 1
    """How much of the chain it has."""
    disk: dict[str, bytes] = field(default_factory=dict[str, bytes])
    unsynced: list[Persist] = field(default_factory=list[Persist])
    free_ns: int = 0
    leases: Leases | None = None
    boots: int = 0
    frozen: bool = False
    gone: bool = False
    inbox: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """What waits for a frozen process."""
    wake_ns: int = -1
    fetching: bool = False
    promises: dict[str, tuple[int, int, bytes]] = field(default_factory=dict[str, tuple[int, int, bytes]])
    """For the checkers: the durable promise of each key, read from what was synced."""
    sealed_below: int = 0
    """For the checkers: what it has told others that it sealed."""

    def now(self, true_ns: int) -> Instant:
        """Its clocks; a lease looks at no wall clock."""
        return Instant(self.clock.read(true_ns), 0)

    def sync(self, effect: Persist) -> None:
        """A write is on disk."""
        for put in rows_of(effect):
            key, value = str(put.row["key"]), put.row["value"]
            if isinstance(value, bytes):
                self.disk[key] = value
                if key.startswith(PROMISE) and not key.endswith("floor"):
                    name, token = unpack(value, list)
                    self.promises[name] = (token[0], token[1], token[2])


def rows_of(effect: Persist) -> list[Put]:
    """What a lease writes; it deletes nothing."""
    return [row for row in effect.rows if isinstance(row, Put)]
