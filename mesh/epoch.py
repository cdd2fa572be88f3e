"""Epochs: who votes, for how long a lease is granted, and how one epoch ends before the next begins (DESIGN section 3.2).

The terms of an epoch are those of the *first* roster of it: if a later roster of the same epoch could change the lease's
duration, holder and voters would count differently. Whoever makes rosters raises the epoch when voters or terms change.

An epoch may begin once nothing below it can be granted any more. Rosters may follow each other faster than voters learn of them,
so epochs may be skipped; ``beginning`` says when enough is sealed. Why that is right: let f be the newest epoch below.
A quorum of f's voters has sealed, so f grants nothing any more. If one of them had begun f, then everything below f had ended
before, or ends within the wait that this voter still had and names. If none had, none ever will, so f never granted: look below f.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.roster import COUNTERS, Roster, check_chain, read_roster
from cloudisense.mesh.instant import NS_PER_MS
from cloudisense.mesh.lease_messages import MAX_LEFT_MS, MAX_SIGNED_BYTES
from cloudisense.mesh.signatures import Signatures

SEAL = "epoch_seal"
FORCED = "epoch_forced"
DIGEST_BYTES = 32
PPM = 1_000_000
_DOMAIN = b"cloudisense/1|epoch|"


@dataclass(frozen=True, slots=True)
class Epoch:
    """The terms of one epoch. ``digest`` is that of its first roster."""

    number: int
    digest: bytes
    voters: tuple[bytes, ...]
    lease_ms: int
    rho_ppm: int

    @property
    def quorum(self) -> int:
        """How many voters decide: any two such sets share one."""
        return len(self.voters) // 2 + 1

    @property
    def lease_ns(self) -> int:
        """D: for how long a voter grants, on its own clock from receipt."""
        return self.lease_ms * NS_PER_MS

    @property
    def hold_ns(self) -> int:
        """For how long a holder holds, on its own clock from sending: D(1-rho)/(1+rho).

        Clocks run at 1-rho to 1+rho of true time. The slowest holder is done after D/(1+rho) of true time, when the fastest voter is.
        """
        return self.lease_ns * (PPM - self.rho_ppm) // (PPM + self.rho_ppm)


def epoch_of(roster: Roster) -> Epoch:
    """The terms that ``roster`` sets, if it is the first of its epoch."""
    return Epoch(roster.epoch, hashlib.sha256(_DOMAIN + pack(roster)).digest(), roster.voters, roster.lease_ms, roster.rho_ppm)


class Epochs:
    """The epochs of one mesh, from its roster chain, which the caller has verified (``mesh.trust``)."""

    def __init__(self, chain: Sequence[bytes]) -> None:
        self._seen = 0
        self._epochs: dict[int, Epoch] = {}
        self.roster: Roster = read_roster(chain[0])
        """The newest roster: its operators and its revoked keys hold now, whatever the epoch."""
        self.take(chain)

    def take(self, chain: Sequence[bytes]) -> bool:
        """Go on with a longer chain; true when there is a newer epoch."""
        before = len(self._epochs)
        for data in chain[self._seen :]:
            self.roster = read_roster(data)
            if self.roster.epoch not in self._epochs:
                self._epochs[self.roster.epoch] = epoch_of(self.roster)
        self._seen = max(self._seen, len(chain))
        return len(self._epochs) > before

    @property
    def first(self) -> Epoch:
        """The one that the mesh began with; it needs no beginning."""
        return next(iter(self._epochs.values()))

    @property
    def newest(self) -> Epoch:
        """The one of the newest roster."""
        return self._epochs[self.roster.epoch]

    def get(self, number: int) -> Epoch | None:
        """The epoch of that number, if there is one."""
        return self._epochs.get(number)

    def below(self, number: int) -> list[Epoch]:
        """All epochs before ``number``, newest first."""
        return [epoch for epoch in reversed(self._epochs.values()) if epoch.number < number]

    def longest_ms(self) -> int:
        """The longest lease that any epoch ever granted for."""
        return max(epoch.lease_ms for epoch in self._epochs.values())


class Seal(msgspec.Struct, frozen=True, array_like=True):
    """A voter's word that it grants and renews nothing below the epoch ``below``, whose first roster has the digest ``successor``.

    ``active``: the newest epoch that this voter has begun, ``below`` itself included. ``left_ms``: for how long, at most, grants still
    run of which it knows.
    ``floor``: the highest round it promised. All that is durable at the voter before this is signed.
    """

    below: int
    successor: bytes
    active: int
    left_ms: int
    floor: int

    def __post_init__(self) -> None:
        counters = self.below in COUNTERS and self.active in COUNTERS and self.floor in COUNTERS
        if not counters or len(self.successor) != DIGEST_BYTES or not 0 <= self.left_ms <= MAX_LEFT_MS:
            raise ValueError("seal: a field is out of bounds")


class Forced(msgspec.Struct, frozen=True, array_like=True):
    """An operator's word that the majority before ``epoch`` is lost for good and switched off, given at ``issued_ms`` (Unix time).

    No seal says so, so nothing but this word stands between that majority and a second holder: it is kept.
    """

    epoch: int
    successor: bytes
    issued_ms: int

    def __post_init__(self) -> None:
        if self.epoch not in COUNTERS or self.issued_ms not in COUNTERS or len(self.successor) != DIGEST_BYTES:
            raise ValueError("forced epoch: a field is out of bounds")


def sign_seal(signatures: Signatures, seal: Seal) -> bytes:
    """The voter's statement."""
    return signatures.sign(SEAL, pack(seal))


def open_seal(signatures: Signatures, data: bytes) -> tuple[bytes, Seal]:
    """Who sealed, and what. Raises ``RemoteProtocolError``."""
    signer, body = signatures.open(data, SEAL, MAX_SIGNED_BYTES)
    return signer, unpack(body, Seal, MAX_SIGNED_BYTES)


def sign_forced(operator: Signatures, epoch: Epoch, issued_ms: int) -> bytes:
    """The operator's statement."""
    return operator.sign(FORCED, pack(Forced(epoch.number, epoch.digest, issued_ms)))


def open_forced(signatures: Signatures, data: bytes, epochs: Epochs) -> Forced:
    """What an operator forced. Raises ``RemoteProtocolError``, also for one who is no operator now."""
    signer, body = signatures.open(data, FORCED, MAX_SIGNED_BYTES)
    if signer not in epochs.roster.operators or epochs.roster.is_revoked(signer):
        raise RemoteProtocolError("epoch forced by a key that is no operator", signer)
    return unpack(body, Forced, MAX_SIGNED_BYTES)


class Sealing(NamedTuple):
    """The voters on whose seals an epoch may begin, and the forced epoch on which that rests besides, or 0."""

    voters: list[bytes]
    forced: int


def beginning(epochs: Epochs, target: int, seals: Mapping[bytes, Seal], forced: int = 0) -> Sealing | None:
    """What epoch ``target`` may begin on, once the waits are over; ``None`` while too few have sealed.

    ``forced``: an operator vouches that the majorities of everything below that epoch are off.
    """
    used: list[bytes] = []
    for epoch in epochs.below(target):
        if epoch.number < forced:
            return Sealing(used, forced)
        sealed = [voter for voter in epoch.voters if voter in seals]
        if len(sealed) < epoch.quorum:
            return None
        used += [voter for voter in sealed if voter not in used]
        if any(seals[voter].active >= epoch.number for voter in sealed):
            break
    return Sealing(used, 0)


def missing(epochs: Epochs, target: int, seals: Mapping[bytes, Seal]) -> list[bytes]:
    """The voters to ask next, sorted: those of epochs below that have not sealed, as far as they matter yet; and always those of
    ``target``, who may have begun it since, or heard an operator's word.
    """
    wanted: set[bytes] = set()
    for epoch in epochs.below(target):
        wanted |= {*epoch.voters}
        if sum(voter in seals for voter in epoch.voters) < epoch.quorum:
            break
    own = epochs.get(target)
    return sorted((wanted - seals.keys()) | ({*own.voters} if own is not None else set[bytes]()))


@dataclass(frozen=True, slots=True)
class Rivals:
    """Evidence that the root signed two successors of one roster: two chains, equal up to a point. Anybody can check it."""

    first: tuple[bytes, ...]
    second: tuple[bytes, ...]

    def check(self, mesh_id: bytes) -> bool:
        """Whether it proves that. A chain that merely goes on from another does not."""
        try:
            check_chain(self.first, mesh_id)
            check_chain(self.second, mesh_id)
        except RemoteProtocolError:
            return False
        return any(a != b for a, b in zip(_bodies(self.first), _bodies(self.second), strict=False))


def _bodies(chain: Iterable[bytes]) -> list[bytes]:
    """What was signed, without the signatures: of k of n roots, others may have signed the same."""
    return [pack(read_roster(data)) for data in chain]
