"""The host's clocks, read once per event and passed down as ``Instant``."""

import time
import uuid
from pathlib import Path

from cloudisense.mesh.instant import NS_PER_S, Instant

EARLIEST_WALL_NS = 1_735_689_600 * NS_PER_S
"""2025-01-01T00:00Z. A wall clock before this project existed was never set (no RTC: it starts in 1970)."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def read_clock() -> Instant:
    """The clocks now. Boot time runs through suspend, unlike CLOCK_MONOTONIC (clock_gettime(2)).

    ``wall_trusted`` is false only where the wall clock is plainly unset; the distance to the peers' clocks
    is for the mesh to judge.
    """
    wall_ns = time.time_ns()
    return Instant(boot_ns=time.clock_gettime_ns(time.CLOCK_BOOTTIME), wall_ns=wall_ns, wall_trusted=wall_ns >= EARLIEST_WALL_NS)


def boot_id(path: Path = _BOOT_ID) -> bytes:
    """16 bytes that name this boot of the host; boot times compare only under the same one (random(4)).

    Raises ``ValueError`` with one line where the kernel does not tell.
    """
    try:
        return uuid.UUID(path.read_text("ascii").strip()).bytes
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read this host's boot id from {path}: {error}") from None
