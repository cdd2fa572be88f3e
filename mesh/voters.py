"""How many voters a mesh of n nodes has, who they are, and what that tolerates (DESIGN section 3.1).

Only numbers and the next epoch: what an old epoch may still grant while a new one begins is the lease's matter.
"""

from collections.abc import Sequence

from cloudisense.keys.roster import Roster

LADDER = (1, 2, 3, 5, 7)
"""From n nodes, the largest step that is not above n; an even number only where there is no choice."""
DEFAULT_MAX = 5


def wanted(nodes: int, most: int = DEFAULT_MAX) -> int:
    """How many of ``nodes`` nodes should vote, at most ``most``."""
    return max(step for step in LADDER if step == 1 or step <= min(nodes, most))


def next_voters(roster: Roster, nodes: int, candidates: Sequence[bytes], most: int = DEFAULT_MAX) -> tuple[bytes, ...] | None:
    """The voters of the next epoch, or ``None`` when it would have none more.

    ``candidates`` are living members that may vote, the best first. Nobody loses its vote here: that is for a person.
    """
    voters = tuple(voter for voter in roster.voters if not roster.is_revoked(voter))
    fresh = [node for node in candidates if node not in voters and not roster.is_revoked(node)]
    count = wanted(min(nodes, len(voters) + len(fresh)), most)
    return (*voters, *fresh[: count - len(voters)]) if count > len(voters) else None


def tolerates(voters: int) -> str:
    """What may die before nothing can be decided any more, in words."""
    spare = voters - (voters // 2 + 1)
    if voters < 2:
        return "the only voter may not die"
    if spare == 0:
        return f"none of {voters} voters may die"
    return f"{spare} of {voters} voters may die"
