"""Any order of sending, losing, doubling, delaying, jumping, restarting and rotating: nothing is accepted twice, nothing good is lost."""

import random
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.session import OLD_KEY_GOOD_NS, SessionKey, Sessions
from cloudisense.keys.window import WIDTH

MESH, NAMES = b"m" * 32, (b"a" * 32, b"b" * 32)


@dataclass(frozen=True)
class At:
    boot_ns: int


@dataclass(frozen=True)
class Sent:
    sender: int
    data: bytes
    plaintext: bytes

    @property
    def keys(self) -> tuple[bytes, bytes]:
        return self.data[2:10], self.data[10:18]

    @property
    def counter(self) -> int:
        return int.from_bytes(self.data[18:26], "big")


class TwoNodes(RuleBasedStateMachine):
    """Nodes 0 and 1, a network that keeps every datagram for ever, and a model of which of them must open."""

    @initialize(seed=st.integers(0, 2**32))
    def start(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now = At(0)
        self.sent: list[Sent] = []
        self.accepted: set[bytes] = set()
        self.highest: dict[tuple[bytes, bytes], int] = {}
        self.nonces: set[tuple[bytes, bytes, int]] = set()
        self.nodes = [Sessions(name, MESH, SessionKey.generate(self.rng)) for name in NAMES]
        # Per node: the ends of its own keys, and of the keys it knows of the other, by id; None is the newest.
        self.own: list[dict[bytes, int | None]] = [{node.key.id: None} for node in self.nodes]
        self.known: list[dict[bytes, int | None]] = [{}, {}]
        self.claim(0)
        self.claim(1)

    def claim(self, who: int) -> None:
        """Node ``who``'s newest key reaches the other."""
        other, key = 1 - who, self.nodes[who].key
        self.nodes[other].learn(NAMES[who], key.public, self.now)
        if self.known[other].get(key.id, 0) is not None:
            self.known[other] = self.superseded(self.known[other], key.id)

    def superseded(self, ends: dict[bytes, int | None], newest: bytes) -> dict[bytes, int | None]:
        before = {id_: self.now.boot_ns + OLD_KEY_GOOD_NS for id_, end in ends.items() if end is None}
        return before | {newest: None}

    def alive(self, ends: dict[bytes, int | None], id_: bytes) -> bool:
        return id_ in ends and (ends[id_] is None or self.now.boot_ns < (ends[id_] or 0))

    @rule(who=st.integers(0, 1), count=st.sampled_from([1, 1, 1, 3, WIDTH - 1, WIDTH, WIDTH + 5]))
    def send(self, who: int, count: int) -> None:
        """Send; the first and the last of them may arrive."""
        for number in range(count):
            plaintext = self.rng.randbytes(4)
            sent = Sent(who, self.nodes[who].seal(NAMES[1 - who], plaintext), plaintext)
            nonce = (*sent.keys, sent.counter)
            assert nonce not in self.nonces, "a counter was used twice under one pair of keys"
            self.nonces.add(nonce)
            if number in (0, count - 1):
                self.sent.append(sent)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def deliver(self, data) -> None:
        """One of all datagrams ever sent arrives, perhaps for the tenth time."""
        sent = self.sent[data.draw(st.integers(0, len(self.sent) - 1))]
        receiver = 1 - sent.sender
        keys_good = self.alive(self.own[receiver], sent.keys[0]) and self.alive(self.known[receiver], sent.keys[1])
        in_window = sent.counter > self.highest.get(sent.keys, -1) - WIDTH
        must_open = keys_good and in_window and sent.data not in self.accepted
        try:
            answer = self.nodes[receiver].open(sent.data, self.now)
        except RemoteProtocolError as error:
            assert not must_open, f"a good datagram was refused: {error.reason}"
            return
        assert must_open, "a datagram was accepted that must not be"
        assert answer == (NAMES[sent.sender], sent.plaintext)
        self.accepted.add(sent.data)
        self.highest[sent.keys] = max(sent.counter, self.highest.get(sent.keys, -1))

    @precondition(lambda self: self.sent)
    @rule(data=st.data(), at=st.integers(0, 10_000), bit=st.integers(0, 7))
    def corrupt(self, data, at: int, bit: int) -> None:
        sent = data.draw(st.sampled_from(self.sent))
        flipped = bytearray(sent.data)
        flipped[at % len(flipped)] ^= 1 << bit
        try:
            self.nodes[1 - sent.sender].open(bytes(flipped), self.now)
        except RemoteProtocolError:
            return
        raise AssertionError("a corrupt datagram was accepted")

    @rule(ms=st.sampled_from([1, 1000, 60_000, 119_999, 120_000]))
    def wait(self, ms: int) -> None:
        self.now = At(self.now.boot_ns + ms * 1_000_000)

    @rule(who=st.integers(0, 1), heard=st.booleans())
    def rotate(self, who: int, heard: bool) -> None:
        key = SessionKey.generate(self.rng)
        self.nodes[who].rotate(key, self.now)
        self.own[who] = self.superseded(self.own[who], key.id)
        if heard:
            self.claim(who)

    @rule(who=st.integers(0, 1))
    def hear(self, who: int) -> None:
        """The newest claim arrives, again or at last."""
        self.claim(who)

    @rule(who=st.integers(0, 1))
    def restart(self, who: int) -> None:
        key = SessionKey.generate(self.rng)
        self.nodes[who] = Sessions(NAMES[who], MESH, key)
        self.own[who], self.known[who] = {key.id: None}, {}
        self.claim(who)
        self.claim(1 - who)

    @rule(who=st.integers(0, 1))
    def forget_and_learn_again(self, who: int) -> None:
        """Afterwards everything up to the highest counts as seen: the window is gone, and must not open again."""
        other = 1 - who
        self.nodes[who].forget(NAMES[other])
        self.accepted.update(sent.data for sent in self.sent if sent.sender == other and sent.counter <= self.highest.get(sent.keys, -1))
        self.known[who] = {}
        self.claim(other)

    @invariant()
    def state_is_bounded(self) -> None:
        for node in getattr(self, "nodes", ()):
            assert len(node._own.pairs) <= 2
            assert len(node._claimants) <= 2


TwoNodes.TestCase.settings = settings(stateful_step_count=40)
TestSessions = TwoNodes.TestCase
