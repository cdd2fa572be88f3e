"""All that leaves a node, collected until the shell polls: sealed messages, durable writes, news, and its deadlines."""

from collections import Counter
from collections.abc import Callable

from cloudisense.keys.session import Sessions
from cloudisense.mesh.effects import Address, Knock, Persist, Row, Send, SendBulk
from cloudisense.mesh.events import (
    DirectReceived,
    EntryArrived,
    EntryDelivered,
    MemberChanged,
    Misbehaved,
    NameConflict,
    RosterChanged,
    RosterRival,
)
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.timers import Timers
from cloudisense.mesh.wire import Message, encode

Effect = Send | SendBulk | Knock | Persist
News = EntryArrived | EntryDelivered | MemberChanged | Misbehaved | NameConflict | RosterChanged | RosterRival | DirectReceived


class Outbound:
    """The one way out, shared by the parts of one node's mesh."""

    def __init__(self, sessions: Sessions, limits: Limits) -> None:
        self.timers = Timers()
        self.dropped: Counter[str] = Counter()
        self._sessions = sessions
        self._limits = limits
        self._effects: list[Effect] = []
        self._news: list[News] = []
        self._waiting: dict[int, Callable[[Instant], None]] = {}
        self._knocking: dict[int, Callable[[str, Instant], None]] = {}
        self._last: dict[object, int] = {}
        self._token = 0
        self.seen_ns = 0

    def send(self, peer: bytes, address: Address, message: Message) -> None:
        """Seal ``message`` for ``peer``; what does not fit a datagram goes by TLS."""
        data = encode(message)
        if len(data) <= self._limits.datagram_bytes:
            self._effects.append(Send(address, self._sessions.seal(peer, data)))
        elif len(data) <= self._limits.bulk_bytes:
            self._effects.append(SendBulk(peer, address, data))
        else:
            self.dropped["message too large to send"] += 1

    def send_bulk(self, peer: bytes, address: Address, message: Message) -> None:
        """Send by TLS whatever the size: to a peer whose session key we cannot know."""
        self._effects.append(SendBulk(peer, address, encode(message)))

    def send_clear(self, address: Address, hello: bytes) -> None:
        """Send a hello."""
        self._effects.append(Send(address, hello))

    def persist(self, rows: tuple[Row, ...], then: Callable[[Instant], None] | None = None) -> None:
        """Write ``rows``; ``then`` runs once they are durable."""
        token = 0
        if then is not None:
            self._token += 1
            token = self._token
            self._waiting[token] = then
        self._effects.append(Persist(token, rows))

    def persisted(self, token: int, now: Instant) -> None:
        """The shell made the rows of ``token`` durable."""
        if (then := self._waiting.pop(token, None)) is not None:
            then(now)

    def knock(self, node: bytes, address: Address, then: Callable[[str, Instant], None]) -> None:
        """Ask TCP what it meets at a member's address."""
        self._token += 1
        self._knocking[self._token] = then
        self._effects.append(Knock(self._token, node, address, self._limits.knock_ms))

    def knocked(self, token: int, met: str, now: Instant) -> None:
        """The shell knocked."""
        if (then := self._knocking.pop(token, None)) is not None:
            then(met, now)

    def after(self, name: object, now: Instant, wait_ms: int) -> None:
        """Wake ``name`` in ``wait_ms``."""
        self.timers.set(name, now.boot_ns + wait_ms * NS_PER_MS)

    def wake_soon(self, name: object, wait_ms: int) -> None:
        """Wake ``name`` ``wait_ms`` after the last time that was seen here; for what has no ``now`` at hand."""
        self.timers.set(name, self.seen_ns + wait_ms * NS_PER_MS)

    def seen(self, now: Instant) -> None:
        """It is ``now``."""
        self.seen_ns = now.boot_ns

    def once(self, name: object, now: Instant, per_ms: int) -> bool:
        """True at most once per ``per_ms`` and name: for what a peer could make us repeat."""
        last = self._last.get(name)
        if last is not None and now.boot_ns - last < per_ms * NS_PER_MS:
            return False
        if len(self._last) >= self._limits.members:
            self._last.clear()
        self._last[name] = now.boot_ns
        return True

    def tell(self, *news: News) -> None:
        """Report to the layer above."""
        self._news.extend(news)

    def poll_effects(self) -> list[Effect]:
        """What the world has to do now, in order; each effect is given once."""
        effects, self._effects = self._effects, []
        return effects

    def poll_news(self) -> list[News]:
        """What happened, in order; each is given once."""
        news, self._news = self._news, []
        return news
