"""The voter: what one node promises, durably, and grants, for a while (DESIGN section 3.2).

Per key it promises a round to one holder, once, and never a lower one after it; the promise is durable before the signed grant
leaves (L5). For how long it granted is not durable: after a start it keeps still instead (``mesh.tenure``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cloudisense.mesh.epoch import Epochs
from cloudisense.mesh.grant import Grant, sign_grant
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.lease_messages import FAR, FULL, HELD, QUOTA, SPENT, LeaseDenied, LeaseGranted, LeaseReleased, LeaseRequest
from cloudisense.mesh.lease_port import Port
from cloudisense.mesh.marks import Marks
from cloudisense.mesh.signatures import Signatures
from cloudisense.mesh.tenure import Tenure
from cloudisense.mesh.token import MAX_JUMP, Token

KEYS = 1024
"""Keys whose promises are kept apart; the rest share a floor."""
PER_HOLDER = 32
"""Leases that one holder may have at a time."""


@dataclass(slots=True)
class _Issued:
    token: Token
    until_ns: int
    durable: bool
    older_ns: int = 0
    """Until when an older grant to the same holder runs: a boot of it that crashed may have left something running."""


class Voter:
    """One node's vote. ``stored`` is its ``meta`` rows."""

    def __init__(self, signatures: Signatures, epochs: Epochs, tenure: Tenure, port: Port, stored: Mapping[str, bytes]) -> None:
        self._signatures = signatures
        self._epochs = epochs
        self._tenure = tenure
        self._port = port
        self._promised = Marks("promise", KEYS, stored)
        self._issued: dict[str, _Issued] = {}
        self._writing: set[str] = set()
        """Keys whose promise is on its way to disk: one write a key, or a slow disk would fall behind for ever."""
        tenure.running_until_ns = self.running_until_ns
        tenure.highest_round = self._promised.highest_round

    def running_until_ns(self) -> int:
        """When the last of our grants has run out, on our clock."""
        return max((issued.until_ns for issued in self._issued.values()), default=0)

    def promised_round(self, key: str) -> int:
        """Only rounds above this one are granted."""
        return max(self._promised.get(key).round, self._tenure.floor)

    def requested(self, peer: bytes, message: LeaseRequest, now: Instant) -> None:
        """Grant, renew or deny."""
        token = Token(message.epoch, message.round, peer)
        if message.epoch > self._epochs.newest.number:
            self._port.behind(peer)
        objection = self._tenure.objection(message.epoch, now) or self._objection(message.key, token, now)
        if objection is not None:
            self._deny(peer, message, *objection)
            return
        # Counted from here, not from when it is durable: the holder counts from before.
        until_ns = now.boot_ns + self._epochs.newest.lease_ns
        issued = self._issued.get(message.key)
        if issued is not None and issued.token == token:
            issued.until_ns = until_ns
            if issued.durable:
                self._grant(message, token)
            return
        if message.key in self._writing:
            self._deny(peer, message, HELD, 0)
            return
        rows = self._promised.put(message.key, token, lambda key: not self._runs(key, now))
        if rows is None:
            self._deny(peer, message, FULL, 0)
            return
        older_ns = max(issued.until_ns, issued.older_ns) if issued is not None else 0
        mine = self._issued[message.key] = _Issued(token, until_ns, durable=False, older_ns=older_ns)
        if len(self._issued) > len(self._promised):
            self._prune(now)
        self._writing.add(message.key)
        self._port.persist(rows, lambda later: self._durable(message, mine, later))

    def _durable(self, message: LeaseRequest, mine: _Issued, now: Instant) -> None:
        """The promise is on disk. Meanwhile it may have been released, run out, or its epoch may have been sealed."""
        self._writing.discard(message.key)
        if self._issued.get(message.key) is not mine:
            return
        mine.durable = True
        if now.boot_ns < mine.until_ns and self._tenure.objection(message.epoch, now) is None:
            self._grant(message, mine.token)

    def _objection(self, key: str, token: Token, now: Instant) -> tuple[str, int] | None:
        issued = self._issued.get(key)
        runs = issued is not None and now.boot_ns < issued.until_ns
        if issued is not None and runs:
            if issued.token == token:
                return None
            # Its own older grant does not stand in its way: a holder that restarted need not wait for itself.
            if issued.token.holder != token.holder:
                return HELD, issued.until_ns - now.boot_ns
        promised = self.promised_round(key)
        if token.round <= promised:
            return SPENT, 0
        if token.round > promised + MAX_JUMP:
            return FAR, 0
        if sum(other.token.holder == token.holder and self._runs(k, now) for k, other in self._issued.items() if k != key) >= PER_HOLDER:
            return QUOTA, 0
        return None

    def _runs(self, key: str, now: Instant) -> bool:
        issued = self._issued.get(key)
        return issued is not None and now.boot_ns < issued.until_ns

    def _prune(self, now: Instant) -> None:
        for key in [key for key in self._issued if not self._runs(key, now)]:
            del self._issued[key]

    def _grant(self, message: LeaseRequest, token: Token) -> None:
        grant = Grant(message.key, token, self._epochs.newest.lease_ms, message.nonce)
        self._port.send(token.holder, LeaseGranted(sign_grant(self._signatures, grant)))

    def _deny(self, peer: bytes, message: LeaseRequest, reason: str, left_ns: int) -> None:
        left_ms = -(-left_ns // NS_PER_MS)
        newest = self._epochs.newest.number
        self._port.send(peer, LeaseDenied(message.key, message.nonce, reason, newest, self.promised_round(message.key), left_ms))

    def released(self, peer: bytes, message: LeaseReleased, now: Instant) -> None:
        """The holder gives it up: the key is free, the promise stays; and so does what an earlier boot of it was granted."""
        issued = self._issued.get(message.key)
        if issued is None or issued.token != Token(message.epoch, message.round, peer):
            return
        if now.boot_ns < issued.older_ns:
            self._issued[message.key] = _Issued(issued.token, issued.older_ns, durable=False, older_ns=issued.older_ns)
        else:
            del self._issued[message.key]
