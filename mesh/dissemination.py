"""Getting news out: claims ride on what is sent anyway, entries go at once to everyone and are acknowledged.

Piggyback as in SWIM section 4.1 with memberlist's retransmit limit of ``mult * ceil(log10(n + 1))``.
"""

import math
from dataclasses import dataclass, field

from cloudisense.mesh.feed import Reference
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.wire import SignedClaim


def retransmit_limit(limits: Limits, members: int) -> int:
    """How often one claim is sent before it is assumed to be known."""
    return limits.retransmit_mult * math.ceil(math.log10(members + 1))


class Piggyback:
    """Claims still to spread, newest news per subject and author only; the least sent goes first."""

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._queue: dict[tuple[bytes, bytes], tuple[int, SignedClaim]] = {}

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, subject: bytes, author: bytes, claim: SignedClaim) -> None:
        """Spread ``claim``; it replaces what ``author`` said of ``subject`` before."""
        self._queue[(subject, author)] = (0, claim)
        if len(self._queue) > self._limit:
            del self._queue[max(self._queue, key=lambda key: (self._queue[key][0], key))]

    def drop(self, subject: bytes) -> None:
        """Stop spreading accusations against ``subject``: it has refuted them."""
        for key in [key for key in self._queue if key[0] == subject and key[1] != subject]:
            del self._queue[key]

    def take(self, budget: int, limit: int) -> tuple[SignedClaim, ...]:
        """Claims of at most ``budget`` bytes for one message; those sent ``limit`` times are dropped."""
        taken: list[SignedClaim] = []
        for key, (sent, claim) in sorted(self._queue.items(), key=lambda item: (item[1][0], item[0])):
            size = len(claim[0]) + len(claim[1]) + 8
            if size > budget:
                continue
            budget -= size
            taken.append(claim)
            if sent + 1 >= limit:
                del self._queue[key]
            else:
                self._queue[key] = (sent + 1, claim)
        return tuple(taken)


@dataclass(slots=True)
class Shipment:
    """One of our own entries on its way to ``waiting``."""

    data: bytes
    waiting: set[bytes]
    attempts: int = 0
    slices: list[tuple[bytes, bytes, list[bytes]]] = field(default_factory=list[tuple[bytes, bytes, list[bytes]]])
    """In a large mesh: first and last id of each slice, and its relays."""


@dataclass(slots=True)
class Outbox:
    """Our own entries that not everyone has acknowledged as durable."""

    open: dict[Reference, Shipment] = field(default_factory=dict[Reference, Shipment])

    def make_room(self, limit: int) -> list[Reference]:
        """Leave the oldest to the digests while ``limit`` or more are open; returns them."""
        given_up = list(self.open)[: max(0, len(self.open) - limit + 1)]
        for reference in given_up:
            del self.open[reference]
        return given_up

    def presses(self, node: bytes, reference: Reference, limit: int) -> bool:
        """Is this one of the ``limit`` oldest entries that ``node`` owes us an answer for?"""
        for other, shipment in self.open.items():
            if other == reference:
                return True
            limit -= node in shipment.waiting
            if limit <= 0:
                return False
        return False

    def acknowledge(self, reference: Reference, node: bytes) -> bool:
        """``node`` has it. True when it was the last one that we waited for."""
        shipment = self.open.get(reference)
        if shipment is None or node not in shipment.waiting:
            return False
        shipment.waiting.discard(node)
        return self._finish(reference, shipment)

    def give_up_on(self, node: bytes) -> list[Reference]:
        """Stop waiting for ``node``, which is gone or has everything; returns the entries that this completes."""
        done: list[Reference] = []
        for reference, shipment in list(self.open.items()):
            if node in shipment.waiting:
                shipment.waiting.discard(node)
                if self._finish(reference, shipment):
                    done.append(reference)
        return done

    def _finish(self, reference: Reference, shipment: Shipment) -> bool:
        if shipment.waiting:
            return False
        del self.open[reference]
        return True
