"""Hellos, wire messages of a member and raw datagrams, through the whole ``Mesh``: never an exception, and bounded state.

The first byte chooses the way in; the rest is the message.
"""

import hashlib
import random
from collections.abc import Callable

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.testing import WALL_MS, issue_for_tests
from cloudisense.mesh.checkpoint import CHECKPOINT, Bundle, Checkpoint, cosign
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Knock, Persist, Put
from cloudisense.mesh.events import Knocked, Persisted
from cloudisense.mesh.hello import PREFIX, Hello
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import LAN
from cloudisense.mesh.member import Alive, Left, Restarting, Suspect
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.wire import (
    Ack,
    Bundles,
    Claims,
    Cosigned,
    Direct,
    Forks,
    Got,
    Message,
    Nack,
    Ping,
    PingRequest,
    Propose,
    Push,
    PushPull,
    Relay,
    Rosters,
    encode,
)

KEYS = issue_for_tests(1)
ANNA, BERT, CARL = (KEYS.member(name) for name in ("anna", "bert", "carl"))
HERE = {ANNA.identity.id: ("10.0.0.1", 7963), BERT.identity.id: ("10.0.0.2", 7963), CARL.identity.id: ("10.0.0.3", 7963)}
RAW, HELLO, MEMBER, TRUE_CLAIM, TRUE_ENTRY, TRUE_CHECKPOINT, TRUE_FORK = range(WAYS := 7)
LIVES = 300
"""Inputs per mesh; then a new one, so that a crash can be replayed."""


def _seal(kind: str, body: object) -> bytes:
    return _signed(kind, pack(body))


def _signed(kind: str, body: bytes) -> bytes:
    return seal(BERT.identity, kind, KEYS.mesh_id, body)


def _alive(member: object, name: str, incarnation: int) -> Alive:
    assert member is BERT or member is CARL
    chosen = BERT if member is BERT else CARL
    return Alive(chosen.identity.id, name, *HERE[chosen.identity.id], incarnation, 1, chosen.session_key.public)


def seeds() -> list[bytes]:
    """One of every message, claim and entry."""
    b, c = BERT.identity.id, CARL.identity.id
    claims = ((_seal("alive", _alive(BERT, "bert", 5)), BERT.certificate),)
    entry = _seal("entry", [1, 0, bytes(32), WALL_MS, "alert", b"x"])
    checkpoint = pack(Checkpoint(b, 1, 1, hashlib.sha256(entry).digest(), bytes(32)))
    statement = _signed(CHECKPOINT, checkpoint)
    messages: list[Message] = [
        Ping(1, bytes(8), claims), Ack(1, bytes(8), ()), PingRequest(1, c), Nack(1), Claims(claims), Push((entry,), True),
        Got(((b, 1, 1),)), PushPull(claims, ((c, 1, False),), ((b, 1, 1),), 2, True), Direct(b"x"), Rosters(KEYS.chain),
        Relay((entry,), bytes(32), b"\xff" * 32), Propose(statement), Cosigned(cosign(BERT.identity, KEYS.mesh_id, statement)),
        Bundles((Bundle(statement, ()),)), Forks(((entry, entry),)),
    ]  # fmt: skip
    bodies = [_alive(BERT, "bert", 7), Suspect(c, 1, b, "silent"), Left(b, 3), Restarting(b, 3)]
    hello = pack([b"hello", pack(Hello(claims[0][0], claims[0][1], ANNA.identity.id, bytes(16), b"")), b, bytes(64)])
    return [
        *(bytes([MEMBER]) + encode(message) for message in messages),
        *(bytes([TRUE_CLAIM, kind]) + pack(body) for kind, body in enumerate(bodies)),
        bytes([TRUE_ENTRY]) + pack([1, 0, bytes(32), WALL_MS, "alert", b"x"]),
        bytes([TRUE_CHECKPOINT]) + checkpoint,
        bytes([TRUE_FORK]) + 2 * pack([1, 0, bytes(32), WALL_MS, "alert", b"x"]),
        bytes([HELLO]) + hello,
        bytes([RAW, 1, 1]) + bytes(40),
    ]


class _World:
    def __init__(self) -> None:
        stored = Stored("anna", HERE[ANNA.identity.id], 1, 1)
        self.ns = 10**10
        self.mesh = Mesh(ANNA.identity, ANNA.certificate, KEYS.chain, LAN, random.Random(1), stored)
        self.mesh.start(self.now())
        for member, name in ((BERT, "bert"), (CARL, "carl")):
            claim = seal(member.identity, "alive", KEYS.mesh_id, pack(_alive(member, name, 1)))
            self.mesh._membership.take_claim((claim, member.certificate), self.now())
        self.settle()
        self.left = LIVES

    def now(self) -> Instant:
        return Instant(self.ns, WALL_MS * NS_PER_MS + self.ns)

    def settle(self) -> None:
        for _ in range(3):
            self.mesh.poll_news()
            for effect in self.mesh.poll_effects():
                if isinstance(effect, Persist):
                    for row in effect.rows:
                        values = row.row if isinstance(row, Put) else row.key
                        numbers = [value for value in values.values() if isinstance(value, int)]
                        assert all(-(2**63) <= value < 2**63 for value in numbers), "what no table holds"
                    self.mesh.handle_event(Persisted(effect.token), self.now())
                elif isinstance(effect, Knock):
                    self.mesh.handle_event(Knocked(effect.token, "silent"), self.now())

    def feed(self, data: bytes) -> None:
        way, rest = data[0] % WAYS, data[1:]
        self.ns += 50_000_000
        bert, source = BERT.identity.id, HERE[BERT.identity.id]
        if way == RAW:
            self.mesh.handle_datagram(rest, source, self.now())
        elif way == HELLO:
            self.mesh.handle_datagram(PREFIX + rest, source, self.now())
        elif way == MEMBER:
            self.mesh.handle_bulk(bert, rest, self.now())
        elif way == TRUE_CLAIM:
            kind = ("alive", "suspect", "left", "restarting")[rest[0] % 4] if rest else "alive"
            claim = seal(BERT.identity, kind, KEYS.mesh_id, rest[1:])
            self.mesh.handle_bulk(bert, encode(Claims(((claim, BERT.certificate),))), self.now())
        elif way == TRUE_ENTRY:
            self.mesh.handle_bulk(bert, encode(Push((_signed("entry", rest),), True)), self.now())
        elif way == TRUE_CHECKPOINT:
            statement = _signed(CHECKPOINT, rest)
            self.mesh.handle_bulk(bert, encode(Propose(statement)), self.now())
            cosigned = (cosign(CARL.identity, KEYS.mesh_id, statement),)
            self.mesh.handle_bulk(bert, encode(Bundles((Bundle(statement, cosigned),))), self.now())
        else:
            half = len(rest) // 2
            self.mesh.handle_bulk(bert, encode(Forks(((_signed("entry", rest[:half]), _signed("entry", rest[half:])),))), self.now())
        self.settle()
        self.mesh.handle_timer(self.now())
        self.settle()
        self.check()

    def check(self) -> None:
        mesh = self.mesh
        assert len(mesh.members) == 2
        assert sum(len(feed.orphans) for feed in mesh.feeds._feeds.values()) <= LAN.orphans_node
        assert len(mesh._out._waiting) == len(mesh._out._knocking) == 0
        assert len(mesh._out.timers._heap) < 500
        assert mesh._detector._prober.open.keys().__len__() <= LAN.relayed_probes + 16
        assert mesh.members[CARL.identity.id].state != "left", "only carl himself can say that he goes"


def make() -> Callable[[bytes], None]:
    """The thing to feed."""
    world = _World()

    def one(data: bytes) -> None:
        nonlocal world
        if not data:
            return
        if world.left == 0:
            world = _World()
        world.left -= 1
        world.feed(data)

    return one
