"""A node's part in the epochs: which one it votes in, what it has sealed, and from when on it may grant (DESIGN section 3.2).

* A voter that learns of a newer epoch seals everything below it, first in memory, then durably, and only then says so.
* A voter of the new epoch asks those of the old ones for their seals; with enough of them (``epoch.beginning``) it begins the epoch,
  durably, and waits for what they said may still run.
* After every start it keeps still for as long as anything may run that it forgot.

A wait is counted on our own clock from when the seal came in, without a margin: the grant that runs for ``left`` more on the voter's
clock has run so much less, and its holder's end is at D/(1+rho) of true time from the request, or left/(1+rho) from the seal;
our own clock takes at least that long for ``left``.
"""

from collections.abc import Callable, Mapping

import msgspec

from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.effects import Put
from cloudisense.mesh.epoch import Epoch, Epochs, Seal, beginning, missing, open_forced, open_seal, sign_seal
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.lease_messages import EPOCH, HALTED, QUIET, SEALED, STRANGER, EpochForced, LeaseMessage, SealAsk, Sealed
from cloudisense.mesh.lease_port import EpochBegun, Halted, Port
from cloudisense.mesh.marks import PREFIX, TABLE
from cloudisense.mesh.signatures import Signatures

KEY = PREFIX + "tenure"
FORCED_JUMP = 1 << 20
"""A forced epoch cannot know the highest round of the majority that is lost; it begins this far above what it knows."""
ASKS_PER_LEASE = 15


class Record(msgspec.Struct, frozen=True, array_like=True):
    """What is durable. ``wait_ms`` is how long ``active`` had to wait at its beginning; ``forced`` the newest operator's word, if any."""

    active: int
    below: int
    successor: bytes
    floor: int
    wait_ms: int
    forced: bytes
    forced_epoch: int
    halted: bool


class Tenure:
    """``running_until(now)`` and ``highest_round()`` are the voter's: what it granted and promised. ``ValueError`` for a damaged record."""

    def __init__(self, signatures: Signatures, epochs: Epochs, port: Port, stored: Mapping[str, bytes], now: Instant) -> None:
        self._signatures = signatures
        self._epochs = epochs
        self._port = port
        self._record = _read(stored.get(KEY), epochs.first)
        self._durable = self._record
        self._quiet_until_ns = now.boot_ns + self._quarantine_ms() * NS_PER_MS
        self._seals: dict[bytes, tuple[Seal, int]] = {}
        self._forced_until_ns = now.boot_ns + epochs.longest_ms() * NS_PER_MS
        self.running_until_ns: Callable[[], int] = lambda: 0
        self.highest_round: Callable[[], int] = lambda: 0

    def _quarantine_ms(self) -> int:
        """What this voter granted before it started may run for a lease; what ended before its epoch, for the wait of that."""
        active = self._epochs.get(self._record.active)
        # An epoch that our chain does not know yet is one that we learned of and then lost the chain: assume the worst.
        return max(active.lease_ms if active is not None else self._epochs.longest_ms(), self._record.wait_ms)

    def start(self, now: Instant) -> None:
        """Go on where the record ends."""
        self.learn(now)
        self._consider(now)

    # -- what the voter asks -------------------------------------------------------------------------------------------

    @property
    def floor(self) -> int:
        """No round up to this one is granted."""
        return self._record.floor

    @property
    def active(self) -> int:
        """The newest epoch that has begun here, durably."""
        return self._durable.active

    def objection(self, epoch: int, now: Instant) -> tuple[str, int] | None:
        """Why nothing at all can be granted in ``epoch`` now, and for how many nanoseconds that may last; ``None`` if it can."""
        newest = self._epochs.newest
        if self._record.halted:
            return HALTED, 0
        if epoch != newest.number:
            return (SEALED, self._left_ns(now)) if epoch < self._record.below else (EPOCH, 0)
        if self._signatures.id not in newest.voters:
            return STRANGER, 0
        if not self._durable.below <= epoch == self._durable.active:
            return SEALED, self._left_ns(now)
        if now.boot_ns < self._quiet_until_ns:
            return QUIET, self._quiet_until_ns - now.boot_ns
        return None

    def _left_ns(self, now: Instant) -> int:
        """For how long anything may still run that this voter granted, or waits for."""
        return max(self.running_until_ns() - now.boot_ns, self._quiet_until_ns - now.boot_ns, 0)

    # -- sealing -------------------------------------------------------------------------------------------------------

    def learn(self, now: Instant) -> None:
        """There may be a newer epoch: seal what is below it, and begin it if it is ours to begin."""
        newest = self._epochs.newest
        if newest.number > self._record.below and newest.number > self._record.active:
            self._seals.clear()
            self._write(msgspec.structs.replace(self._record, below=newest.number, successor=newest.digest), self._sealed)
        self.ask(now)

    def _sealed(self, now: Instant) -> None:
        """Those who wait for our seal need not ask."""
        newest = self._epochs.newest
        for voter in newest.voters:
            self.asked(voter, SealAsk(newest.number), now)

    def asked(self, peer: bytes, message: SealAsk, now: Instant) -> None:
        """Answer with our seal, if it is durable; with the operator's word, if that is what the epoch stands on."""
        newest = self._epochs.newest
        if message.epoch > newest.number:
            self._port.behind(peer)
            return
        if self._durable.forced:
            self._port.send(peer, EpochForced(self._durable.forced))
        if self._durable.below == newest.number > self._epochs.first.number:
            # Who has begun the epoch answers for what went before with what it began on, and not with what it granted since.
            begun = self._durable.active == newest.number
            left_ns = max(self._quiet_until_ns - now.boot_ns, 0) if begun else self._left_ns(now)
            floor = self._record.floor if begun else max(self._record.floor, self.highest_round())
            left_ms = -(-left_ns // NS_PER_MS)  # rounded up: a wait must not end early
            seal = Seal(newest.number, self._durable.successor, self._durable.active, left_ms, floor)
            self._port.send(peer, Sealed(sign_seal(self._signatures, seal)))

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _may_begin(self) -> bool:
        newest = self._epochs.newest
        return self._record.active < newest.number and self._signatures.id in newest.voters and not self._record.halted

    def ask(self, now: Instant) -> None:
        """Ask for the seals that are missing, until the newest epoch has begun here."""
        newest = self._epochs.newest
        self._port.cancel("epoch")
        if not self._may_begin():
            return
        for voter in missing(self._epochs, newest.number, {voter: seal for voter, (seal, _) in self._seals.items()}):
            self._port.send(voter, SealAsk(newest.number))
        self._port.set("epoch", now.boot_ns + newest.lease_ns // ASKS_PER_LEASE)

    def sealed(self, peer: bytes, message: Sealed, now: Instant) -> None:
        """A seal came in. Raises ``RemoteProtocolError`` for a bad one."""
        newest = self._epochs.newest
        signer, seal = open_seal(self._signatures, message.seal)
        if seal.below > newest.number:
            self._port.behind(peer)
        if not self._may_begin() or seal.below != newest.number:
            return
        if signer in self._seals and seal.active <= self._seals[signer][0].active:
            return  # what it said first was no less, and runs out sooner
        if seal.successor != newest.digest:
            raise RemoteProtocolError("seal for another successor", signer)
        self._seals[signer] = (seal, now.boot_ns + seal.left_ms * NS_PER_MS)
        self._consider(now)

    def forced(self, message: EpochForced, now: Instant) -> None:
        """An operator vouches that the old majorities are off; kept for good. Raises ``RemoteProtocolError`` where that proves nothing."""
        word = open_forced(self._signatures, message.forced, self._epochs)
        epoch = self._epochs.get(word.epoch)
        if epoch is None or word.epoch <= self._record.forced_epoch or self._record.active >= word.epoch:
            return
        if word.successor != epoch.digest:
            raise RemoteProtocolError("forced epoch with another roster")
        self._forced_until_ns = now.boot_ns + self._epochs.longest_ms() * NS_PER_MS
        record = msgspec.structs.replace(self._record, forced=message.forced, forced_epoch=word.epoch)
        self._write(record, self._consider)
        for voter in self._epochs.newest.voters:
            if voter != self._signatures.id:
                self._port.send(voter, message)

    def _consider(self, now: Instant) -> None:
        """Begin the newest epoch if there is enough to begin it on."""
        newest = self._epochs.newest
        seals = {voter: seal for voter, (seal, _) in self._seals.items()}
        found = beginning(self._epochs, newest.number, seals, self._durable.forced_epoch) if self._may_begin() else None
        if found is None:
            return
        until_ns = max((self._seals[voter][1] for voter in found.voters), default=0)
        floor = max((seals[voter].floor for voter in found.voters), default=0)
        if found.forced:
            until_ns = max(until_ns, self._forced_until_ns)
            floor = max(floor, self._record.floor, self.highest_round()) + FORCED_JUMP
        self._begin(newest, max(until_ns - now.boot_ns, 0), floor, bool(found.forced), now)

    def _begin(self, epoch: Epoch, wait_ns: int, floor: int, forced: bool, now: Instant) -> None:
        self._quiet_until_ns = max(self._quiet_until_ns, now.boot_ns + wait_ns)
        self._port.cancel("epoch")
        self._seals.clear()
        record = msgspec.structs.replace(
            self._record,
            active=epoch.number,
            below=max(self._record.below, epoch.number),
            floor=max(self._record.floor, floor),
            wait_ms=-(-wait_ns // NS_PER_MS),
        )
        self._write(record, lambda _: self._port.tell(EpochBegun(epoch.number, forced)))

    def halt(self, now: Instant) -> None:
        """The root contradicted itself: nothing is granted here any more, across restarts too."""
        if not self._record.halted:
            self._write(msgspec.structs.replace(self._record, halted=True), lambda _: self._port.tell(Halted()))

    @property
    def halted(self) -> bool:
        """Whether that has happened."""
        return self._record.halted

    def _write(self, record: Record, then: Callable[[Instant], None]) -> None:
        self._record = record

        def done(now: Instant) -> None:
            self._durable = record
            then(now)

        self._port.persist((self._row(record),), done)

    def _row(self, record: Record) -> Put:
        return Put(TABLE, {"key": KEY, "value": pack(record)})

    def handle(self, peer: bytes, message: LeaseMessage, now: Instant) -> None:
        """One of this part's messages."""
        match message:
            case SealAsk():
                self.asked(peer, message, now)
            case Sealed():
                self.sealed(peer, message, now)
            case EpochForced():
                self.forced(message, now)
            case _:
                pass


def _read(data: bytes | None, first: Epoch) -> Record:
    if data is None:
        return Record(first.number, first.number, first.digest, 0, 0, b"", 0, False)
    try:
        return unpack(data, Record)
    except RemoteProtocolError:
        raise ValueError("lease: the stored record of epochs is damaged") from None
