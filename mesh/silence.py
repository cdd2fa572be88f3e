"""What kind of silence: which of the accusers' evidence leads to which state (DESIGN section 3.2).

refused   UDP and TCP are refused: the host is up, the agent is gone        agent_down, at once
mute      TCP is accepted, but nothing speaks                               stalled, after a suspicion
silent    nothing answers at all                                            dead, after a suspicion
"""

from collections.abc import Mapping
from typing import Literal

Evidence = Literal["silent", "mute", "refused"]
Knock = Literal["silent", "mute", "refused", "spoke"]
"""What a TCP connection to the member's port met; ``spoke`` only if the member's own key answered."""
SETTLED: Mapping[str, Evidence] = {"agent_down": "refused", "stalled": "mute"}
"""States in which a member is probed on, and the evidence that bears each out."""


def verdict(evidence: Mapping[bytes, str], needed: int) -> Literal["agent_down", "stalled", "dead"] | None:
    """The state that ``needed`` accusers agree on; ``None`` while there are too few.

    Being accepted by anybody's TCP speaks for the host, so one ``mute`` makes the milder state; a refusal alone needs its own
    quorum, because it acts at once.
    """
    kinds = list(evidence.values())
    if kinds.count("refused") >= needed:
        return "agent_down"
    if len(kinds) < needed:
        return None
    return "stalled" if "mute" in kinds or "refused" in kinds else "dead"
