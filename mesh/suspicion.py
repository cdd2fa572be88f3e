"""How long a suspicion lasts, and how many accusers a death needs.

Lifeguard (Dadgar, Phillips, Currey: "Lifeguard: local health awareness for more accurate failure detection", 2018),
section IV-B: start long, shorten with the logarithm of independent confirmations.
"""

import math

from cloudisense.mesh.limits import Limits


def suspicion_ms(limits: Limits, members: int, accusers: int) -> int:
    """Milliseconds from the first accusation to its end, with ``accusers`` of ``members`` (ourselves included) by now."""
    minimum = limits.suspicion_ms * max(1.0, math.log10(max(1, members)))
    # The accuser and the accused cannot confirm.
    expected = min(limits.confirmers, members - 2)
    if expected < 1:
        return round(minimum)
    maximum = limits.suspicion_max_mult * minimum
    shortened = maximum - (maximum - minimum) * math.log(max(1, accusers)) / math.log(expected + 1)
    return round(max(minimum, shortened))


def accusers_needed(unsuspected_others: int) -> int:
    """A death needs two accusers, or all that are left to accuse, and never none."""
    return max(1, min(2, unsuspected_others))
