"""What a node brings along from its disk when it starts."""

from dataclasses import dataclass

from cloudisense.mesh.effects import Address
from cloudisense.mesh.wire import ForkProof, SignedClaim


@dataclass(frozen=True, slots=True)
class Stored:
    """``boot`` and ``incarnation`` were raised durably before this start.

    ``address`` is where peers reach this node. ``members`` are (claim, certificate) pairs, ``entries`` our copy of all feeds in
    order of feed and number, ``seeds`` addresses to try, ``revocations`` operators' claims and successions.
    """

    name: str
    address: Address
    boot: int
    incarnation: int
    members: tuple[SignedClaim, ...] = ()
    entries: tuple[bytes, ...] = ()
    seeds: tuple[Address, ...] = ()
    states: tuple[str, ...] = ()
    """What each of ``members`` was when this node went down; alive where it is missing."""
    revocations: tuple[bytes, ...] = ()
    checkpoints: tuple[bytes, ...] = ()
    """Packed bundles (``mesh.checkpoint``): where pruned histories begin."""
    forks: tuple[ForkProof, ...] = ()
    """Proofs against those who forked."""
    rival: tuple[bytes, ...] = ()
    """A roster chain that the root signed beside ours."""
