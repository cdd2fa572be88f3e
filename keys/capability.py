"""Capability: the grantor's leave to run one plan, once, at one gate, within one boot of its guard (DESIGN section 3.3).

It travels as the body of a signed feed entry; the feed checks the signature, the gate spends the nonce.
"""

import msgspec

from cloudisense.keys.encoding import unpack
from cloudisense.keys.identity import NODE_ID_BYTES

MAX_CAPABILITY_BYTES = 512
MAX_STEPS = 32
MAX_INCIDENT_CHARS = 64
MAX_LAPSE_MS = 24 * 3_600_000
NONCE_BYTES = 16
BOOT_BYTES = 16
PLAN_HASH_BYTES = 32


class Capability(msgspec.Struct, frozen=True, array_like=True):
    """What the grantor allows. ``ValueError`` when a field is out of bounds."""

    nonce: bytes
    """16 random bytes; the gate accepts each once, durably."""
    incident: str
    plan_hash: bytes
    """SHA-256 of the plan, 32 bytes: exactly this plan and no other."""
    holder: bytes
    """The node that may drive the steps."""
    gate: bytes
    """The node where the steps happen."""
    boot: bytes
    """The boot id of the gate's guard, 16 bytes: after a restart nothing old is admitted."""
    steps: int
    """How many steps the plan has, 1 to 32."""
    granted_ms: int
    """The gate's boot-time clock at the grant, in milliseconds; means something under ``boot`` only."""
    lapse_ms: int
    """Milliseconds of the gate's boot time, from the grant, until this lapses."""

    def __post_init__(self) -> None:
        rules = (
            (len(self.nonce) == NONCE_BYTES, "nonce"),
            (0 < len(self.incident) <= MAX_INCIDENT_CHARS, "incident"),
            (len(self.plan_hash) == PLAN_HASH_BYTES, "plan_hash"),
            (len(self.holder) == NODE_ID_BYTES, "holder"),
            (len(self.gate) == NODE_ID_BYTES, "gate"),
            (len(self.boot) == BOOT_BYTES, "boot"),
            (1 <= self.steps <= MAX_STEPS, "steps"),
            (0 <= self.granted_ms < 2**62, "granted_ms"),
            (1 <= self.lapse_ms <= MAX_LAPSE_MS, "lapse_ms"),
        )
        for holds, field in rules:
            if not holds:
                raise ValueError(f"capability: {field} out of bounds")


def check_capability(body: bytes) -> Capability:
    """The capability in an entry's ``body``; ``RemoteProtocolError`` when malformed."""
    return unpack(body, Capability, MAX_CAPABILITY_BYTES)
