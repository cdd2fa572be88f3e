"""The leader lease: at most one holder a key, by a quorum of the roster's voters (DESIGN section 3.2; docs/lease.md has the proof).

``Leases`` is one node's whole part in it: candidate, holder and voter. Sans-I/O: messages, timers and durable writes come in, ``Tell``
and ``Persist`` go out. The caller knows the senders (sessions), has verified the roster chains that it hands in, gives back
``Persisted`` in order, and calls ``held`` before every step that the lease is for.
"""

from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from cloudisense.keys.errors import Refused, RemoteProtocolError
from cloudisense.keys.given import Rng
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.epoch import Epochs, Rivals
from cloudisense.mesh.holder import Holder
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.lease_messages import (
    EpochForced,
    LeaseDenied,
    LeaseGranted,
    LeaseMessage,
    LeaseReleased,
    LeaseRequest,
)
from cloudisense.mesh.lease_port import Behind, Lease, News
from cloudisense.mesh.signatures import Signatures
from cloudisense.mesh.tenure import Tenure
from cloudisense.mesh.timers import Timers
from cloudisense.mesh.voter import Voter


@dataclass(frozen=True, slots=True)
class Tell:
    """Send ``message`` to node ``to``; best effort, as a datagram."""

    to: bytes
    message: LeaseMessage


class _Port:
    """Collects what the parts want, until the caller polls. What a node says to itself stays here."""

    def __init__(self, own: bytes) -> None:
        self.timers = Timers()
        self.effects: list[Tell | Persist] = []
        self.news: list[News] = []
        self.to_self: deque[LeaseMessage] = deque()
        self._own = own
        self._waiting: dict[int, Callable[[Instant], None]] = {}
        self._token = 0

    def send(self, to: bytes, message: LeaseMessage) -> None:
        if to == self._own:
            self.to_self.append(message)
        else:
            self.effects.append(Tell(to, message))

    def persist(self, rows: tuple[Put, ...], then: Callable[[Instant], None]) -> None:
        self._token += 1
        self._waiting[self._token] = then
        self.effects.append(Persist(self._token, rows))

    def persisted(self, token: int, now: Instant) -> None:
        if (then := self._waiting.pop(token, None)) is not None:
            then(now)

    def set(self, name: Hashable, at_ns: int) -> None:
        self.timers.set(name, at_ns)

    def cancel(self, name: Hashable) -> None:
        self.timers.cancel(name)

    def tell(self, *news: News) -> None:
        self.news.extend(news)

    def behind(self, peer: bytes) -> None:
        self.news.append(Behind(peer))


class Leases:
    """``chain`` is the verified roster chain, ``stored`` the ``meta`` rows whose keys begin with ``marks.PREFIX``.

    ``ValueError`` when a stored row is damaged: this node must not vote.
    """

    def __init__(self, signatures: Signatures, chain: Sequence[bytes], rng: Rng, stored: Mapping[str, bytes], now: Instant) -> None:
        self.epochs = Epochs(chain)
        self.dropped: Counter[str] = Counter()
        self._own = signatures.id
        self._port = _Port(signatures.id)
        self.tenure = Tenure(signatures, self.epochs, self._port, stored, now)
        self.voter = Voter(signatures, self.epochs, self.tenure, self._port, stored)
        self._holder = Holder(signatures, self.epochs, self._port, rng, stored, lambda: not self.tenure.halted)

    def start(self, now: Instant) -> None:
        """Seal and begin what the chain asks for."""
        self.tenure.start(now)
        self._settle(now)

    # -- the layer above -----------------------------------------------------------------------------------------------

    def want(self, key: str, now: Instant) -> Refused | None:
        """Get and keep the lease on ``key``: ``LeaseHeld`` and ``LeaseLost`` tell. ``ValueError`` for what is no key."""
        refused = self._holder.want(key, now)
        self._settle(now)
        return refused

    def drop(self, key: str, now: Instant) -> None:
        """Release it, or stop trying. The work it was for must have stopped."""
        self._holder.drop(key, now)
        self._settle(now)

    def held(self, key: str, now: Instant) -> Lease | None:
        """Our lease on ``key``, if we hold it at this very moment. Ask before every step."""
        return self._holder.held(key, now)

    def wanted(self) -> list[str]:
        """The keys that this node holds or wants, sorted."""
        return self._holder.wanted()

    def learn(self, chain: Sequence[bytes], now: Instant) -> None:
        """The roster chain has grown."""
        if self.epochs.take(chain):
            self.tenure.learn(now)
        self._settle(now)

    def force(self, forced: bytes, now: Instant) -> None:
        """An operator's ``Forced`` for the newest epoch. Raises ``RemoteProtocolError``."""
        self.tenure.forced(EpochForced(forced), now)
        self._settle(now)

    def halt(self, rivals: Rivals, mesh_id: bytes, now: Instant) -> bool:
        """Evidence that the root signed two successors: grant, renew and hold nothing any more. False when it proves nothing."""
        if not rivals.check(mesh_id):
            return False
        self.tenure.halt(now)
        self._settle(now)
        return True

    # -- the world -----------------------------------------------------------------------------------------------------

    def handle(self, peer: bytes, message: LeaseMessage, now: Instant) -> None:
        """A message from ``peer``, whom the session vouches for. Junk is counted in ``dropped``."""
        self._dispatch(peer, message, now)
        self._settle(now)

    def _dispatch(self, peer: bytes, message: LeaseMessage, now: Instant) -> None:
        try:
            match message:
                case LeaseRequest():
                    self.voter.requested(peer, message, now)
                case LeaseReleased():
                    self.voter.released(peer, message, now)
                case LeaseGranted():
                    self._holder.granted(peer, message, now)
                case LeaseDenied():
                    self._holder.denied(peer, message, now)
                case _:
                    self.tenure.handle(peer, message, now)
        except RemoteProtocolError as error:
            self.dropped[error.reason] += 1

    def handle_timer(self, now: Instant) -> None:
        """Deadlines that have come."""
        while (name := self._port.timers.pop_due(now.boot_ns)) is not None:
            match name:
                case (str(what), str(key)):
                    self._holder.timer(what, key, now)
                case _:
                    self.tenure.ask(now)
        self._settle(now)

    def persisted(self, token: int, now: Instant) -> None:
        """The rows of ``Persist(token)`` are on disk, synced."""
        self._port.persisted(token, now)
        self._settle(now)

    def next_deadline(self) -> int | None:
        """The boot time at which ``handle_timer`` has something to do."""
        return self._port.timers.next()

    def poll_effects(self) -> list[Tell | Persist]:
        """What the world has to do, in order; each is given once."""
        effects, self._port.effects = self._port.effects, []
        return effects

    def poll_news(self) -> list[News]:
        """What happened, in order; each is given once."""
        news, self._port.news = self._port.news, []
        return news

    def _settle(self, now: Instant) -> None:
        """What this node said to itself."""
        while self._port.to_self:
            self._dispatch(self._own, self._port.to_self.popleft(), now)
