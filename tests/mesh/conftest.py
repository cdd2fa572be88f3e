"""Several Mesh objects, wired together in memory and in virtual time: what each test of the whole mesh stands on."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from cloudisense.keys.encoding import pack
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.keys.testing import WALL_MS, TestMember, TestMesh, issue_for_tests
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Delete, Knock, Persist, Put, Row, Send, SendBulk
from cloudisense.mesh.events import EntryArrived, EntryDelivered, Knocked, MemberChanged, Persisted, PortRefused
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.outbound import News
from cloudisense.mesh.stored import Stored

KEYS = {"members": ("node",), "entries": ("node", "generation", "number"), "meta": ("key",), "forks": ("node",), "checkpoints": ("node",)}
LIMITS = Limits()
WIRE_NS = NS_PER_MS // 2
DISK_NS = NS_PER_MS // 5


@cache
def mesh_keys(seed: int) -> TestMesh:
    return issue_for_tests(seed)


@cache
def mesh_member(seed: int, name: str) -> TestMember:
    return mesh_keys(seed).member(name)


@dataclass
class Host:
    """One node with its disk. ``mesh`` is stale while ``up`` is false; ``held`` are writes that a slow disk has not done."""

    name: str
    address: Address
    member: TestMember
    mesh: Mesh = field(init=False)
    up: bool = False
    gone: bool = True
    """While the agent is down: is its host, too? Otherwise it refuses what is sent to it."""
    boot: int = 0
    wakes: set[int] = field(default_factory=set)
    disk: dict[tuple[str, tuple], dict] = field(default_factory=dict)
    slow: bool = False
    held: list[tuple[Mesh, Persist]] = field(default_factory=list)
    news: list[News] = field(default_factory=list)
    heard: list[tuple[bytes, Address]] = field(default_factory=list)
    bulk: list[bytes] = field(default_factory=list)

    @property
    def id(self) -> bytes:
        return self.member.identity.id

    def rows(self, table: str) -> list[dict]:
        return [row for (name, _), row in sorted(self.disk.items()) if name == table]

    def number(self, key: str) -> int:
        row = self.disk.get(("meta", (key,)))
        return int.from_bytes(row["value"], "big") if row else 0

    def arrived(self) -> list[bytes]:
        return [item.entry.body for item in self.news if isinstance(item, EntryArrived)]

    def delivered(self) -> int:
        return sum(isinstance(item, EntryDelivered) for item in self.news)


class Net:
    """``names`` are hosts; the first is everybody's seed. Nothing runs before ``run``."""

    def __init__(self, *names: str, seed: int = 1, limits: Limits = LIMITS, up: bool = True) -> None:
        self.keys, self.seed, self.limits = mesh_keys(seed), seed, limits
        self.now_ns = 10 * NS_PER_S
        self.rng = random.Random(seed)
        self.hosts: dict[str, Host] = {}
        self.lose: Callable[[Host, Address], bool] = lambda source, target: False
        self.mute: dict[str, str] = {}
        """What a knock meets at a host, where it is not what its state says."""
        self.sends = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._turn = 0
        for name in names:
            self.add(name, up)

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def add(self, name: str, up: bool = True) -> Host:
        host = Host(name, (f"10.0.0.{len(self.hosts) + 1}", 7963), mesh_member(self.seed, name))
        self.hosts[name] = host
        if up:
            self.start(name)
        return host

    def instant(self) -> Instant:
        return Instant(self.now_ns, WALL_MS * NS_PER_MS + self.now_ns)

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def start(self, name: str, chain: tuple[bytes, ...] = ()) -> Mesh:
        """Boot from what the disk holds."""
        host = self.hosts[name]
        host.boot = host.number("boot") + 1
        incarnation = host.number("incarnation") + 1
        self.put(host, Put("meta", {"key": "boot", "value": host.boot.to_bytes(8, "big")}))
        self.put(host, Put("meta", {"key": "incarnation", "value": incarnation.to_bytes(8, "big")}))
        stored = Stored(
            name,
            host.address,
            host.boot,
            incarnation,
            tuple((row["claim"], row["certificate"]) for row in host.rows("members")),
            tuple(row["data"] for row in host.rows("entries")),
            (next(iter(self.hosts.values())).address,),
            tuple(row["state"] for row in host.rows("members")),
        )
        rng = random.Random(f"{self.seed} {name} {host.boot} {self.now_ns}")
        host.mesh = Mesh(host.member.identity, host.member.certificate, chain or self.keys.chain, self.limits, rng, stored)
        host.up, host.held, host.news = True, [], []
        host.mesh.start(self.instant())
        self.settle(host)
        return host.mesh

    def kill(self, name: str) -> None:
        self.hosts[name].up = False
        self.hosts[name].held = []

    @staticmethod
    def put(host: Host, put: Row) -> None:
        if isinstance(put, Delete):
            host.disk.pop((put.table, tuple(put.key[key] for key in KEYS[put.table])), None)
            return
        host.disk[put.table, tuple(put.row[key] for key in KEYS[put.table])] = dict(put.row)

    def release(self, name: str) -> None:
        """The disk has caught up."""
        host = self.hosts[name]
        host.slow, held, host.held = False, host.held, []
        for mesh, persist in held:
            self.durable(host, mesh, persist)

    # -- effects -------------------------------------------------------------------------------------------------------

    def after(self, wait_ns: int, do: Callable[[], None]) -> None:
        self._turn += 1
        heapq.heappush(self._queue, (self.now_ns + wait_ns, self._turn, do))

    def settle(self, host: Host) -> None:
        """Carry out what ``host`` wants; call it after every call into its mesh."""
        while news := host.mesh.poll_news():
            host.news += news
        for effect in host.mesh.poll_effects():
            match effect:
                case Send(address, data):
                    self.sends += 1
                    if not self.lose(host, address):
                        self.after(WIRE_NS, lambda source=host.address, to=address, data=data: self.deliver(source, to, data))
                case SendBulk(to, address, data):
                    if not self.lose(host, address):
                        self.after(WIRE_NS, lambda peer=host.id, to=to, address=address, data=data: self.stream(peer, to, address, data))
                case Knock(token, node, address, wait_ms):
                    self.knock(host, token, node, address, wait_ms)
                case Persist() if host.slow:
                    host.held.append((host.mesh, effect))
                case Persist():
                    self.after(DISK_NS, lambda mesh=host.mesh, persist=effect: self.durable(host, mesh, persist))
        deadline = host.mesh.next_deadline()
        if deadline is not None and deadline not in host.wakes:
            host.wakes.add(deadline)
            self.after(max(0, deadline - self.now_ns), lambda: self.wake(host, deadline))

    def wake(self, host: Host, deadline: int) -> None:
        host.wakes.discard(deadline)
        if host.up:
            host.mesh.handle_timer(self.instant())
            self.settle(host)

    def durable(self, host: Host, mesh: Mesh, persist: Persist) -> None:
        if host.up and host.mesh is mesh:
            for put in persist.rows:
                self.put(host, put)
            mesh.handle_event(Persisted(persist.token), self.instant())
            self.settle(host)

    def knock(self, host: Host, token: int, node: bytes, address: Address, wait_ms: int) -> None:
        """What TCP would meet: a cut, a host without agent, or the agent."""
        mesh = host.mesh
        there = next((h for h in self.hosts.values() if h.address == address), None)
        met = "silent"
        if there is not None and not self.lose(host, address) and not self.lose(there, host.address):
            met = self.mute.get(there.name) or ("spoke" if there.up and there.id == node else "silent" if there.gone else "refused")

        def answer() -> None:
            if host.up and host.mesh is mesh:
                mesh.handle_event(Knocked(token, met), self.instant())
                self.settle(host)

        self.after(wait_ms * NS_PER_MS if met in ("silent", "mute") else WIRE_NS, answer)

    def refuse(self, source: Address, to: Address) -> None:
        """ICMP port unreachable."""
        for host in self.hosts.values():
            if host.up and host.address == source:
                host.mesh.handle_event(PortRefused(to), self.instant())
                self.settle(host)

    def deliver(self, source: Address, to: Address, data: bytes) -> None:
        for host in self.hosts.values():
            if not host.up and not host.gone and host.address == to:
                self.after(WIRE_NS, lambda: self.refuse(source, to))
            if host.up and host.address == to:
                host.heard.append((data, source))
                host.mesh.handle_datagram(data, source, self.instant())
                self.settle(host)

    def stream(self, peer: bytes, to: bytes, address: Address, data: bytes) -> None:
        for host in self.hosts.values():
            if host.up and host.address == address and host.id == to:
                host.bulk.append(data)
                host.mesh.handle_bulk(peer, data, self.instant())
                self.settle(host)

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most ``seconds``; true as soon as ``until`` holds."""
        end = self.now_ns + round(seconds * NS_PER_S)
        while not until():
            if not self._queue or self._queue[0][0] > end:
                self.now_ns = end
                return until()
            self.now_ns, _, do = heapq.heappop(self._queue)
            do()
        return True

    # -- words ---------------------------------------------------------------------------------------------------------

    def say(self, name: str, body: bytes = b"words") -> None:
        host = self.hosts[name]
        host.mesh.append("alert", body, self.instant())
        self.settle(host)

    @classmethod
    def formed(cls, *names: str, **options: Any) -> "Net":
        """All know all, and what they know is on disk, too."""
        world = cls(*names, **options)
        assert world.run(5, world.all_know_all)
        assert world.run(5, world.same_feeds)
        world.run(0.01)
        return world

    def leave(self, name: str) -> None:
        self.hosts[name].mesh.leave()
        self.settle(self.hosts[name])

    def claim(self, by: Identity, kind: str, body: object) -> tuple[bytes, bytes]:
        """``body``, signed, as it rides on a message."""
        return seal(by, kind, self.keys.mesh_id, pack(body)), b""

    def accusation(self, by: str, of: str, incarnation: int = 0, evidence: str = "silent") -> tuple[bytes, bytes]:
        suspect = [self.hosts[of].id, incarnation or self.hosts[of].mesh.incarnation, self.hosts[by].id, evidence]
        return self.claim(self.hosts[by].member.identity, "suspect", suspect)

    def tell(self, to: str, *claims: tuple[bytes, bytes]) -> None:
        """Claims as a peer's gossip brings them."""
        self.hosts[to].mesh._membership.take_claims(claims, self.instant())
        self.settle(self.hosts[to])

    def changes(self, at: str, of: str) -> list[str]:
        return [item.state for item in self.hosts[at].news if isinstance(item, MemberChanged) and item.node == self.hosts[of].id]

    def state(self, at: str, of: str) -> str:
        member = self.hosts[at].mesh.members.get(self.hosts[of].id)
        return member.state if member is not None else "unknown"

    def all_know_all(self) -> bool:
        ups = [host for host in self.hosts.values() if host.up]
        return all(set(host.mesh.present()) == {other.id for other in ups} - {host.id} for host in ups)

    def same_feeds(self) -> bool:
        return len({host.mesh.feeds.vector() for host in self.hosts.values() if host.up}) == 1

    def cut(self, *names: str) -> None:
        """Nothing passes between ``names`` and the rest."""
        inside = {self.hosts[name].address for name in names}
        self.lose = lambda source, target: (source.address in inside) != (target in inside)

    def heal(self) -> None:
        self.lose = lambda source, target: False


@pytest.fixture(scope="session")
def net() -> type[Net]:
    """Session-wide, so that hypothesis may use it: it is only the class."""
    return Net
