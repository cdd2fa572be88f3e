"""The candidate and holder: asks the voters, counts from before it asked, renews, and lets go in time (DESIGN section 3.2).

A round is durable before it is sent, so that no other boot of this node ever uses it. The lease is ours with a quorum of grants for one
request, until D(1-rho)/(1+rho) on our boot clock after that request was *sent*. What ran out stays lost: the next try has a new round.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.given import Rng
from cloudisense.mesh.effects import Put
from cloudisense.mesh.epoch import Epoch, Epochs
from cloudisense.mesh.grant import certificate_of, open_grant
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.lease_messages import HELD, NONCE_BYTES, SPENT, LeaseDenied, LeaseGranted, LeaseReleased, LeaseRequest
from cloudisense.mesh.lease_port import Lease, LeaseHeld, LeaseLost, LeaseWaits, Port
from cloudisense.mesh.marks import Marks
from cloudisense.mesh.signatures import Signatures
from cloudisense.mesh.token import MAX_JUMP, Token, is_key
from cloudisense.mesh.voter import PER_HOLDER

ROUNDS = 1024
"""Keys whose own rounds are kept apart."""
RENEW = 3
"""A lease is renewed at a third of D; a failed renewal is tried again a ninth of D later."""
RETRY = 30
"""Those who are silent are asked again after this part of D,"""
PATIENCE = 6
"""and the try is given up after this part."""
SPREAD = 60
"""The first random backoff is up to this part of D; each failure doubles it, up to a quarter of D."""


@dataclass(slots=True)
class _Try:
    """One request to all voters. ``again`` is false for a new round, true for a renewal."""

    token: Token
    nonce: bytes
    sent_ns: int
    again: bool
    grants: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])
    denials: dict[bytes, LeaseDenied] = field(default_factory=dict[bytes, LeaseDenied])


@dataclass(slots=True)
class _Wish:
    """What we know about one key that we want."""

    key: str
    seen: int = 0
    fails: int = 0
    making: Token | None = None
    """A round that is being made durable."""
    trying: _Try | None = None
    lease: Lease | None = None


class Holder:
    """All the leases that one node wants. ``stored`` is its ``meta`` rows; ``usable()`` is false while nothing may be held at all."""

    def __init__(
        self, signatures: Signatures, epochs: Epochs, port: Port, rng: Rng, stored: Mapping[str, bytes], usable: Callable[[], bool]
    ) -> None:
        self._signatures = signatures
        self._epochs = epochs
        self._port = port
        self._rng = rng
        self._usable = usable
        self._rounds = Marks("round", ROUNDS, stored)
        self._wishes: dict[str, _Wish] = {}

    # -- what the layer above says -------------------------------------------------------------------------------------

    def want(self, key: str, now: Instant) -> Refused | None:
        """Get and keep the lease on ``key``; a second call changes nothing. ``ValueError`` for what is no key."""
        if not is_key(key):
            raise ValueError(f"lease: not a key (1 to 128 bytes of printable text): {key[:64]!r}")
        if key in self._wishes:
            return None
        if len(self._wishes) >= PER_HOLDER:
            return Refused(f"a node may hold at most {PER_HOLDER} leases")
        wish = self._wishes[key] = _Wish(key)
        self._try(wish, now)
        return None

    def drop(self, key: str, now: Instant) -> None:
        """Want it no more; if it is ours, it is nobody's before any voter can hear of it."""
        wish = self._wishes.pop(key, None)
        if wish is None:
            return
        for name in ("try", "ask", "end"):
            self._port.cancel((name, key))
        tokens = {wish.lease.token} if wish.lease is not None else set[Token]()
        if wish.lease is not None:
            self._port.tell(LeaseLost(key, wish.lease.token, "released" if self._held(wish, now) else "ran out"))
        if wish.trying is not None:
            tokens.add(wish.trying.token)
        for token in sorted(tokens):
            self._release(key, token)

    def held(self, key: str, now: Instant) -> Lease | None:
        """The lease on ``key`` if it is ours at this very moment: ask before every step."""
        wish = self._wishes.get(key)
        return wish.lease if wish is not None and self._held(wish, now) else None

    def wanted(self) -> list[str]:
        """The keys that we hold or want, sorted."""
        return sorted(self._wishes)

    def _held(self, wish: _Wish, now: Instant) -> bool:
        return wish.lease is not None and now.boot_ns < wish.lease.until_ns and self._usable()

    # -- asking --------------------------------------------------------------------------------------------------------

    def _try(self, wish: _Wish, now: Instant) -> None:
        """Take a round that no boot of ours has used, and ask for it once that is durable."""
        if not self._usable():
            return
        token = Token(self._epochs.newest.number, max(self._rounds.get(wish.key).round, wish.seen) + 1, self._signatures.id)
        rows = self._rounds.put(wish.key, token, lambda key: key not in self._wishes)
        if rows is None:  # cannot be: there are fewer wishes than places
            return
        wish.making = token
        self._make_durable(rows, lambda later: self._first(wish, token, later))

    def _make_durable(self, rows: tuple[Put, ...], then: Callable[[Instant], None]) -> None:
        self._port.persist(rows, then)

    def _first(self, wish: _Wish, token: Token, now: Instant) -> None:
        if self._wishes.get(wish.key) is not wish or wish.making != token:
            return
        wish.making = None
        self._ask(wish, token, now, again=False)

    def _ask(self, wish: _Wish, token: Token, now: Instant, *, again: bool) -> None:
        """A new request to all voters, with a new nonce; only grants for this one count, from now."""
        attempt = wish.trying = _Try(token, self._rng.randbytes(NONCE_BYTES), now.boot_ns, again)
        self._send(wish, attempt, now)

    def _send(self, wish: _Wish, attempt: _Try, now: Instant) -> None:
        epoch = self._terms(attempt.token)
        for voter in epoch.voters:
            if voter not in attempt.grants and voter not in attempt.denials:
                self._port.send(voter, LeaseRequest(wish.key, *attempt.token[:2], attempt.nonce))
        wait_ns = epoch.lease_ns // (RENEW * 3) if attempt.again else epoch.lease_ns // RETRY
        self._port.set(("ask", wish.key), now.boot_ns + wait_ns)

    def _terms(self, token: Token) -> Epoch:
        epoch = self._epochs.get(token.epoch)
        return epoch if epoch is not None else self._epochs.newest

    def timer(self, what: str, key: str, now: Instant) -> None:
        """One of our deadlines has come; after a freeze, perhaps long ago."""
        wish = self._wishes.get(key)
        if wish is None or self._ran_out(wish, now):
            return
        if what == "try" and wish.lease is None and wish.trying is None and wish.making is None:
            self._try(wish, now)
        elif what == "ask":
            self._again(wish, now)

    def _again(self, wish: _Wish, now: Instant) -> None:
        """Nobody, or too few, have answered; or it is time to renew."""
        attempt = wish.trying
        if wish.lease is not None:
            if wish.lease.token.epoch == self._epochs.newest.number:  # a sealed epoch renews nothing: use what is left
                self._ask(wish, wish.lease.token, now, again=True)
        elif attempt is not None:
            if now.boot_ns - attempt.sent_ns < self._terms(attempt.token).lease_ns // PATIENCE:
                self._send(wish, attempt, now)
            else:
                self._fail(wish, attempt, now)

    def _ran_out(self, wish: _Wish, now: Instant) -> bool:
        """If our lease has run out, say so and begin anew."""
        lease = wish.lease
        if lease is None or self._held(wish, now):
            return False
        wish.lease = wish.trying = None
        self._port.cancel(("ask", wish.key))
        self._port.cancel(("end", wish.key))
        self._port.tell(LeaseLost(wish.key, lease.token, "ran out"))
        self._back_off(wish, 0, "ran out", now)
        return True

    # -- answers -------------------------------------------------------------------------------------------------------

    def granted(self, peer: bytes, message: LeaseGranted, now: Instant) -> None:
        """A grant came in. Raises ``RemoteProtocolError`` for a bad one."""
        voter, grant = open_grant(self._signatures, message.grant)
        if grant.token.holder != self._signatures.id:
            raise RemoteProtocolError("grant to another holder", peer)
        wish = self._wishes.get(grant.key)
        if wish is not None:
            self._ran_out(wish, now)
        attempt = wish.trying if wish is not None else None
        if wish is None or attempt is None or attempt.nonce != grant.nonce or attempt.token != grant.token:
            if wish is None or grant.token not in (attempt and attempt.token, wish.lease and wish.lease.token):
                self._port.send(voter, LeaseReleased(grant.key, *grant.token[:2]))  # it keeps a key for us that we gave up
            return
        epoch = self._terms(attempt.token)
        if voter not in epoch.voters or self._epochs.roster.is_revoked(voter):
            raise RemoteProtocolError("grant by one that is no voter", peer)
        if grant.lease_ms != epoch.lease_ms:
            raise RemoteProtocolError("grant for another time", peer)
        attempt.grants[voter] = message.grant
        if len(attempt.grants) >= epoch.quorum:
            self._won(wish, attempt, epoch, now)

    def _won(self, wish: _Wish, attempt: _Try, epoch: Epoch, now: Instant) -> None:
        until_ns = self._until_ns(attempt, epoch, now)
        if now.boot_ns >= until_ns:
            if wish.lease is None:
                self._fail(wish, attempt, now)
            return
        wish.trying, wish.fails = None, 0
        wish.lease = Lease(wish.key, attempt.token, until_ns, certificate_of(attempt.grants))
        self._port.set(("ask", wish.key), attempt.sent_ns + epoch.lease_ns // RENEW)
        self._port.set(("end", wish.key), until_ns)
        self._port.tell(LeaseHeld(wish.lease, attempt.again))

    def _until_ns(self, attempt: _Try, epoch: Epoch, now: Instant) -> int:
        """Counted from when it was sent, for no voter can have begun to count before that."""
        return attempt.sent_ns + epoch.hold_ns

    def denied(self, peer: bytes, message: LeaseDenied, now: Instant) -> None:
        """A voter said no."""
        if message.epoch > self._epochs.newest.number:
            self._port.behind(peer)
        wish = self._wishes.get(message.key)
        if wish is None or self._ran_out(wish, now) or wish.trying is None or wish.trying.nonce != message.nonce:
            return
        attempt, epoch = wish.trying, self._terms(wish.trying.token)
        if peer not in epoch.voters or peer in attempt.grants:
            return
        attempt.denials[peer] = message
        if message.round <= attempt.token.round + MAX_JUMP:  # no honest voter is further ahead
            wish.seen = max(wish.seen, message.round)
        if not attempt.again and len(epoch.voters) - len(attempt.denials) < epoch.quorum:
            self._fail(wish, attempt, now)

    def _fail(self, wish: _Wish, attempt: _Try, now: Instant) -> None:
        """This try cannot win: free what it got, and come back when a quorum can be free, at a random moment."""
        epoch = self._terms(attempt.token)
        wish.trying = None
        self._port.cancel(("ask", wish.key))
        self._release(wish.key, attempt.token)
        left = sorted(_left_ns(attempt.denials[voter], epoch) if voter in attempt.denials else 0 for voter in epoch.voters)
        reasons = sorted({denial.reason for denial in attempt.denials.values()})
        if reasons == [SPENT] and not wish.fails:
            wish.fails = 1  # nobody is in the way, we only did not know how far the rounds had gone
            self._try(wish, now)
            return
        self._back_off(wish, min(left[epoch.quorum - 1], 2 * epoch.lease_ns), ", ".join(reasons) or "silence", now)

    def _back_off(self, wish: _Wish, left_ns: int, reason: str, now: Instant) -> None:
        lease_ns = self._epochs.newest.lease_ns
        spread_ns = min(lease_ns // 4, (lease_ns // SPREAD) << min(wish.fails, 16))
        wish.fails += 1
        wait_ns = left_ns + int(self._rng.random() * spread_ns)
        self._port.set(("try", wish.key), now.boot_ns + wait_ns)
        self._port.tell(LeaseWaits(wish.key, reason, wait_ns))

    def _release(self, key: str, token: Token) -> None:
        for voter in self._terms(token).voters:
            self._port.send(voter, LeaseReleased(key, *token[:2]))


def _left_ns(denial: LeaseDenied, epoch: Epoch) -> int:
    """For how long it is no use to ask this voter again.

    A grant as young as a try may be one: two that tried at once refuse each other, and neither must wait for a lease that nobody has.
    """
    left_ns = denial.left_ms * NS_PER_MS
    return 0 if denial.reason == HELD and left_ns > epoch.lease_ns - epoch.lease_ns // PATIENCE else left_ns
