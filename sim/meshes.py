"""Meshes alone, without agents: members that join one by one, append, crash and come back, in virtual time. For properties of feeds."""

import random
from dataclasses import dataclass, field

from cloudisense.keys.testing import TestMember, TestMesh, issue_for_tests
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Knock, Persist, Send, SendBulk
from cloudisense.mesh.events import EntryArrived, Knocked, Misbehaved, Persisted
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.limits import LAN, Limits
from cloudisense.mesh.outbound import Effect, News
from cloudisense.mesh.stored import Stored
from cloudisense.sim.clock import Clock
from cloudisense.sim.disk import Disk
from cloudisense.sim.network import Network, Weather


@dataclass(slots=True)
class MeshNode:
    """One member and its disk. ``mesh`` is ``None`` while it is down."""

    name: str
    address: Address
    member: TestMember
    disk: Disk
    mesh: Mesh | None = None
    boots: int = 0
    starts: int = 0
    news: list[News] = field(default_factory=list)


class Meshes:
    """Members on one network; the first is everybody's seed."""

    def __init__(self, seed: int, limits: Limits = LAN, weather: Weather | None = None) -> None:
        self.rng = random.Random(seed)
        self.limits = limits
        self.clock = Clock()
        self.network = Network(self.clock, random.Random(self.rng.randrange(1 << 62)), weather or Weather())
        self.keys: TestMesh = issue_for_tests(seed)
        self.nodes: list[MeshNode] = []

    def add(self) -> MeshNode:
        """A new member joins."""
        i = len(self.nodes) + 1
        disk = Disk(self.clock, random.Random(self.rng.randrange(1 << 62)))
        node = MeshNode(f"n{i}", (f"10.0.0.{i}", 7963), self.keys.member(f"n{i}"), disk)
        self.nodes.append(node)
        self.start(node)
        return node

    def start(self, node: MeshNode) -> None:
        """Boot from what the disk holds."""
        node.boots += 1
        node.starts += 1
        rows = node.disk.rows
        entries = sorted(rows("entries"), key=lambda row: (row["node"], row["generation"], row["number"]))
        stored = Stored(
            name=node.name,
            address=node.address,
            boot=node.boots,
            incarnation=1000 * node.starts,
            members=tuple((_bytes(row["claim"]), _bytes(row["certificate"])) for row in rows("members")),
            entries=tuple(_bytes(row["data"]) for row in entries),
            seeds=(self.nodes[0].address,),
            checkpoints=tuple(_bytes(row["bundle"]) for row in rows("checkpoints")),
            forks=tuple((_bytes(row["first"]), _bytes(row["second"])) for row in rows("forks")),
        )
        rng = random.Random(self.rng.randrange(1 << 62))
        node.mesh = Mesh(node.member.identity, node.member.certificate, self.keys.chain, self.limits, rng, stored)
        node.mesh.start(self.clock.instant())
        self._carry_out(node)

    def crash(self, node: MeshNode) -> None:
        """What is not synced is gone."""
        node.mesh = None
        node.disk.crash()

    def append(self, node: MeshNode, kind: str, body: bytes) -> None:
        """Say something."""
        if node.mesh is not None:
            node.mesh.append(kind, body, self.clock.instant())
            self._carry_out(node)

    def propose(self, node: MeshNode) -> None:
        """Let it look now whether its history is too long."""
        if node.mesh is not None:
            node.mesh.pruner.propose(self.clock.instant())
            self._carry_out(node)

    def inject(self, node: MeshNode, source: MeshNode, data: bytes) -> None:
        """A message of ``source`` comes in at ``node`` by stream, whatever ``source`` itself would send."""
        if node.mesh is not None:
            node.mesh.handle_bulk(source.member.identity.id, data, self.clock.instant())
            self._carry_out(node)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(self.clock.now_ns + int(seconds * NS_PER_S), lambda: False)

    def told(self, node: MeshNode, kind: type[EntryArrived] | type[Misbehaved]) -> list[News]:
        """News of one kind."""
        return [news for news in node.news if isinstance(news, kind)]

    # -- effects -------------------------------------------------------------------------------------------------------

    def _carry_out(self, node: MeshNode) -> None:
        mesh = node.mesh
        if mesh is None:
            return
        node.news += mesh.poll_news()
        for effect in mesh.poll_effects():
            self._effect(node, mesh, effect)
        deadline = mesh.next_deadline()
        if deadline is not None:
            self.clock.at(deadline, lambda: self._wake(node, mesh))

    def _wake(self, node: MeshNode, mesh: Mesh) -> None:
        deadline = mesh.next_deadline()
        if node.mesh is mesh and deadline is not None and deadline <= self.clock.now_ns:
            mesh.handle_timer(self.clock.instant())
            self._carry_out(node)

    def _effect(self, node: MeshNode, mesh: Mesh, effect: Effect) -> None:
        match effect:
            case Send(address, data):
                self.network.datagram(node.address, address, len(data), lambda: self._deliver(node, address, data))
            case SendBulk(_, address, data):
                self.network.bulk(node.address, address, len(data), lambda: self._deliver_bulk(node, address, data))
            case Knock(token):
                self.clock.after(NS_PER_S // 5, lambda: self._event(node, mesh, Knocked(token, "silent")))
            case Persist(token, rows):
                node.disk.write(rows, lambda: self._event(node, mesh, Persisted(token)))

    def _event(self, node: MeshNode, mesh: Mesh, event: Knocked | Persisted) -> None:
        if node.mesh is mesh:
            mesh.handle_event(event, self.clock.instant())
            self._carry_out(node)

    def _at(self, address: Address) -> MeshNode | None:
        return next((node for node in self.nodes if node.address == address and node.mesh is not None), None)

    def _deliver(self, source: MeshNode, target: Address, data: bytes) -> None:
        node = self._at(target)
        if node is not None and node.mesh is not None:
            node.mesh.handle_datagram(data, source.address, self.clock.instant())
            self._carry_out(node)

    def _deliver_bulk(self, source: MeshNode, target: Address, data: bytes) -> None:
        node = self._at(target)
        if node is not None:
            self.inject(node, source, data)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
