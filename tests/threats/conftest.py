"""A small mesh in memory and in virtual time, one of its members evil: what each threat is tried on."""

import heapq
import random
from collections.abc import Callable
from typing import Any

import pytest

from cloudisense.keys.certificate import Role
from cloudisense.keys.testing import WALL_MS, TestMember, issue_for_tests
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Knock, Persist, Send, SendBulk
from cloudisense.mesh.events import DirectReceived, EntryArrived, Knocked, Persisted
from cloudisense.mesh.hello import PREFIX
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S, Instant
from cloudisense.mesh.limits import LAN, Limits
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.wire import Message, encode

ROLES: tuple[Role, ...] = ("member", "voter", "actor")


class Node:
    """One node. ``mesh`` is its core; ``heard`` every datagram that came; ``sent`` counts what it sent."""

    def __init__(self, name: str, address: Address, member: TestMember) -> None:
        self.name, self.address, self.member = name, address, member
        self.boot = 0
        self.up = False
        self.mesh: Mesh
        self.heard: list[tuple[bytes, Address]] = []
        self.arrived: list[Any] = []
        self.directs: list[bytes] = []
        self.sent = 0
        self.persisted = 0

    @property
    def id(self) -> bytes:
        return self.member.identity.id


class Arena:
    """``names`` are nodes of one mesh; all know all after ``Arena(...)``."""

    def __init__(self, *names: str, seed: int = 1, limits: Limits = LAN, roles: dict[str, tuple[Role, ...]] | None = None) -> None:
        self.keys = issue_for_tests(seed)
        self.limits = limits
        self.now_ns = 10 * NS_PER_S
        self.cut: Callable[[Address, Address], bool] = lambda source, target: False
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._turn = 0
        self.nodes: dict[str, Node] = {}
        for i, name in enumerate(names):
            member = self.keys.member(name, (roles or {}).get(name, ROLES))
            self.nodes[name] = Node(name, (f"10.0.0.{i + 1}", 7963), member)
        for name in names:
            self.start(name)
        self.run(4.0)
        assert all(len(node.mesh.present()) == len(names) - 1 for node in self.nodes.values()), "they must have met"
        for node in self.nodes.values():  # what came before keys were known was never opened, so it is no replay
            node.heard = [(data, source) for data, source in node.heard if data[:2] == PREFIX]
        self.run(4.0)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def now(self) -> Instant:
        return Instant(self.now_ns, WALL_MS * NS_PER_MS + self.now_ns)

    def start(self, name: str) -> None:
        """Boot, or boot again with nothing but the counters."""
        node = self.nodes[name]
        node.boot += 1
        incarnation = node.mesh.incarnation + 1 if node.up else 1
        first = next(iter(self.nodes.values())).address
        stored = Stored(name, node.address, node.boot, incarnation, seeds=(first,))
        chain = node.mesh.roster_chain if node.up else self.keys.chain
        rng = random.Random(f"{name} {node.boot}")
        node.mesh = Mesh(node.member.identity, node.member.certificate, chain, self.limits, rng, stored)
        node.up = True
        node.mesh.start(self.now())
        self.settle(node)

    def _after(self, wait_ns: int, do: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._queue, (self.now_ns + wait_ns, self._turn, do))

    def settle(self, node: Node) -> None:
        """Carry out what ``node`` wants."""
        for item in node.mesh.poll_news():
            if isinstance(item, EntryArrived):
                node.arrived.append(item.entry)
            elif isinstance(item, DirectReceived):
                node.directs.append(item.body)
        for effect in node.mesh.poll_effects():
            self._effect(node, node.mesh, effect)
        deadline = node.mesh.next_deadline()
        if deadline is not None:
            self._after(max(0, deadline - self.now_ns), lambda mesh=node.mesh: self._wake(node, mesh))

    def _effect(self, node: Node, mesh: Mesh, effect: object) -> None:
        match effect:
            case Send(address, data):
                node.sent += 1
                if not self.cut(node.address, address):
                    self._after(NS_PER_MS // 2, lambda: self._arrive(node.address, address, data))
            case SendBulk(to, address, data):
                node.sent += 1
                if not self.cut(node.address, address):
                    self._after(NS_PER_MS, lambda: self._stream(node.id, to, data))
            case Persist(token):
                node.persisted += 1
                self._after(NS_PER_MS // 5, lambda: self.event(node, mesh, Persisted(token)))
            case Knock(token, to, address):
                met = "silent" if self.cut(node.address, address) else "spoke"
                self._after(NS_PER_MS, lambda: self.event(node, mesh, Knocked(token, met)))

    def _wake(self, node: Node, mesh: Mesh) -> None:
        if node.mesh is mesh and (mesh.next_deadline() or self.now_ns + 1) <= self.now_ns:
            mesh.handle_timer(self.now())
            self.settle(node)

    def event(self, node: Node, mesh: Mesh, event: Any) -> None:
        if node.mesh is mesh:
            mesh.handle_event(event, self.now())
            self.settle(node)

    def _arrive(self, source: Address, to: Address, data: bytes) -> None:
        for node in self.nodes.values():
            if node.address == to:
                node.heard.append((data, source))
                self.datagram(node, data, source)

    def _stream(self, peer: bytes, to: bytes, data: bytes) -> None:
        for node in self.nodes.values():
            if node.id == to:
                node.mesh.handle_bulk(peer, data, self.now())
                self.settle(node)

    def datagram(self, node: Node, data: bytes, source: Address) -> None:
        """The attacker puts ``data`` on the wire."""
        node.mesh.handle_datagram(data, source, self.now())
        self.settle(node)

    def say(self, evil: str, to: str, *messages: Message) -> None:
        """``evil``, a member in good standing, seals any message for ``to``; what is too long goes as a stream."""
        source, target = self.nodes[evil], self.nodes[to]
        for message in messages:
            data = encode(message)
            if len(data) > self.limits.datagram_bytes:
                target.mesh.handle_bulk(source.id, data, self.now())
                self.settle(target)
            else:
                self.datagram(target, source.mesh._sessions.seal(target.id, data), source.address)

    def run(self, seconds: float) -> None:
        end = self.now_ns + round(seconds * NS_PER_S)
        while self._queue and self._queue[0][0] <= end:
            self.now_ns, _, do = heapq.heappop(self._queue)
            do()
        self.now_ns = end

    def snapshot(self, name: str) -> dict[str, Any]:
        """Everything that a datagram could change, but for the counters of what was refused."""
        mesh = self.nodes[name].mesh
        sessions = mesh._sessions
        return {
            "members": {
                n: (m.state, m.alive, m.claim, m.certificate_data, dict(m.evidence), m.departure, m.mismatches)
                for n, m in mesh.members.items()
            },
            "vector": mesh.feeds.vector(),
            "feeds": {key: (len(feed.entries), sorted(feed.orphans)) for key, feed in mesh.feeds._feeds.items()},
            "incarnation": mesh.incarnation,
            "roster": mesh.roster_chain,
            "peers": {n: (p.public, p.old_public) for n, p in sessions._peers.items()},
            "windows": {key: (pair.window.highest, pair.window._seen) for key, pair in sessions._own.pairs.items()},
            "probes": {n: (p.target, p.asked, p.nacks) for n, p in mesh._detector._prober.open.items()},
            "awareness": mesh._detector.awareness.score,
        }


@pytest.fixture(scope="session")
def arena() -> type[Arena]:
    return Arena
