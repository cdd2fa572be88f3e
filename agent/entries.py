"""What agents tell each other: the bodies of feed entries, and the direct messages between holder and gate (docs/wire.md).

Everything but an offer and a peer's escalation is believed only from the incident's subject.
"""

from typing import Annotated, cast

import msgspec

from cloudisense.agent.plan import Candidate, Plan, Step
from cloudisense.keys.encoding import unpack

Count = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
"""What a durable table can hold: a larger one from a peer would stop every node's writer."""
NodeOrNone = Annotated[bytes, msgspec.Meta(max_length=32)]


class Alert(msgspec.Struct, frozen=True, array_like=True):
    """Something is wrong at the author. Sizes in bytes; ``key`` is the same for every report of one trouble."""

    incident: str
    key: str
    kind: str
    target: str
    fingerprint: str
    symptom: str
    size: Count
    used: Count
    inodes: Count
    inodes_used: Count


class Help(msgspec.Struct, frozen=True, array_like=True):
    """Who can plan this? All that could be done here, each measured to reach the goal."""

    incident: str
    round: Count
    goal_bytes: Count
    goal_inodes: Count
    candidates: tuple[Candidate, ...]


class Offer(msgspec.Struct, frozen=True, array_like=True):
    """I would do this, because; ``confidence`` is between 0 and 1."""

    incident: str
    round: Count
    plan: Plan
    planner: str
    model: str
    confidence: float
    load_ms: Count
    think_ms: Count


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """The gate is about to run this step (durable before)."""

    incident: str
    nonce: bytes
    index: int
    step: Step


class Outcome(msgspec.Struct, frozen=True, array_like=True):
    """The step ended. ``verdict`` is ``done``, ``failed`` or ``refused``; ``freed_bytes`` is what the executor counted."""

    incident: str
    nonce: bytes
    index: int
    verdict: str
    detail: str
    freed_bytes: Count


class Failed(msgspec.Struct, frozen=True, array_like=True):
    """This plan did not heal; it is out for this incident."""

    incident: str
    signature: str
    planner: str
    reason: str


class Closed(msgspec.Struct, frozen=True, array_like=True):
    """The end: ``state`` is ``resolved``, ``cleared`` or ``escalated``. What every fix history learns."""

    incident: str
    state: str
    verdict: str
    fingerprint: str
    signature: str
    planner: str
    planned_by: NodeOrNone
    acted_by: NodeOrNone
    used: Count
    size: Count
    ms_to_heal: Count


class Escalation(msgspec.Struct, frozen=True, array_like=True):
    """A peer's: the subject grants nothing, or is gone. Holds until the subject speaks again.

    ``generation`` and ``number`` name the subject's last word on it that the peer had read.
    """

    incident: str
    reason: str
    generation: Count
    number: Count


class Note(msgspec.Struct, frozen=True, array_like=True):
    """An operator's word to every node. It belongs to no incident and changes none."""

    text: str


NOTE_BYTES = 1024


class StepRequest(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Holder to gate: run step ``index`` of the packed ``plan`` under the capability with ``nonce``."""

    incident: str
    nonce: bytes
    index: int
    plan: bytes


class StepReply(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Gate to holder: how step ``index`` ended."""

    nonce: bytes
    index: int
    verdict: str
    detail: str


DIRECT_BYTES = 16 * 1024


def decode_direct(data: bytes) -> StepRequest | StepReply:
    """A direct message. Raises ``RemoteProtocolError``."""
    return unpack(data, cast("type[StepRequest | StepReply]", StepRequest | StepReply), DIRECT_BYTES)


Body = Alert | Help | Offer | Intent | Outcome | Failed | Closed | Escalation
"""What is said about an incident."""

KINDS: dict[str, type[Body]] = {
    "alert": Alert,
    "help": Help,
    "offer": Offer,
    "intent": Intent,
    "outcome": Outcome,
    "failed": Failed,
    "closed": Closed,
    "escalation": Escalation,
}
"""Entry kind -> body. ``capability`` is the ninth; its body is ``keys.capability.Capability``. Others are kept and relayed unread."""

KIND_OF = {body: kind for kind, body in KINDS.items()}
