"""Several nodes, the very code that runs on real hosts, in one process and in virtual time, from one seed (DESIGN section 3.5)."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudisense.agent.catalogue import Action, Catalogue, DeclaredPath
from cloudisense.agent.core import Agent
from cloudisense.agent.effects import Estimate, Notify, RequestPlan, RunStep, Sample
from cloudisense.agent.events import Estimated, PlanReady, Sampled, StepDone
from cloudisense.agent.gate import Admitted, Gate
from cloudisense.agent.memory import lessons
from cloudisense.agent.node import Effect, Node
from cloudisense.agent.plan import PlanRequest, Ranking
from cloudisense.agent.requests import Answer
from cloudisense.agent.settings import Settings
from cloudisense.keys.encoding import unpack
from cloudisense.keys.identity import node_text
from cloudisense.keys.testing import TestMember, TestMesh
from cloudisense.mesh.core import Event as MeshEvent
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Knock, Persist, Put, Send, SendBulk
from cloudisense.mesh.events import Knocked, Persisted, PortRefused
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.membership import DEPARTURE
from cloudisense.mesh.stored import Stored
from cloudisense.sim.clock import Clock
from cloudisense.sim.disk import Disk
from cloudisense.sim.fast import SimSessions, keyring, member_of, remembering
from cloudisense.sim.host import MB, Host
from cloudisense.sim.network import Network, Weather
from cloudisense.sim.trace import Trace

PATHS = (
    DeclaredPath(path="/vol/cache", role="cache", mount="/vol"),
    DeclaredPath(path="/vol/data", role="data", mount="/vol"),
    DeclaredPath(path="/vol/logs", role="logs", mount="/vol"),
    DeclaredPath(path="/vol/scratch", role="temp", mount="/vol"),
)


@dataclass(slots=True)
class SimNode:
    """One host with its agent. ``node`` is ``None`` while the agent is down."""

    name: str
    address: Address
    member: TestMember
    settings: Settings
    host: Host
    disk: Disk
    catalogue: Catalogue
    node: Node | None = None
    gate: Gate | None = None
    boot: int = 0
    wakes: set[int] = field(default_factory=set[int])


class World:
    """``nodes`` hosts joined by one network. The first ``subjects`` have a file system that breaks; the second has a model."""

    def __init__(self, seed: int, actions: tuple[Action, ...], nodes: int = 3, weather: Weather | None = None, subjects: int = 1) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.clock.within = remembering
        self.trace = Trace()
        self.network = Network(self.clock, random.Random(self.rng.randrange(1 << 62)), weather or Weather())
        self.mesh: TestMesh = keyring(seed)
        self.nodes: list[SimNode] = []
        self.canaries: dict[str, int] = {}
        """How many each host had to begin with."""
        self.ran: list[tuple[str, bytes, int]] = []
        """(host, nonce, step) of everything that any executor began, in true order."""
        for i in range(nodes):
            self.nodes.append(self._make(i, actions, PATHS if i < subjects else ()))

    def _make(self, i: int, actions: tuple[Action, ...], paths: tuple[DeclaredPath, ...]) -> SimNode:
        name = f"n{i + 1}"
        host = Host("/vol", 64 * MB, paths)
        return SimNode(
            name,
            (f"10.0.0.{i + 1}", 7963),
            member_of(self.seed, name),
            Settings(model=i == 1),
            host,
            Disk(self.clock, random.Random(self.rng.randrange(1 << 62))),
            Catalogue(actions, paths),
        )

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def start(self, sim: SimNode) -> None:
        """Boot an agent from what its disk holds."""
        now = self.clock.instant()
        meta = {row["key"]: row["value"] for row in sim.disk.rows("meta")}
        incarnation = int.from_bytes(_bytes(meta.get("incarnation", b"")), "big") + 1
        sim.boot = int.from_bytes(_bytes(meta.get("boot", b"")), "big") + 1
        sim.disk.write_now((_number("incarnation", incarnation), _number("boot", sim.boot)))
        entries = sorted(sim.disk.rows("entries"), key=lambda row: (row["node"], row["generation"], row["number"]))
        stored = Stored(
            name=sim.name,
            address=sim.address,
            boot=sim.boot,
            incarnation=incarnation,
            members=(
                *((_bytes(row["claim"]), _bytes(row["certificate"])) for row in sim.disk.rows("members")),
                *((_bytes(value), b"") for key, value in sorted(meta.items()) if str(key).startswith(DEPARTURE)),
            ),
            states=tuple(str(row["state"]) for row in sim.disk.rows("members")),
            entries=tuple(_bytes(row["data"]) for row in entries),
            seeds=(self.nodes[0].address,),
            revocations=tuple(unpack(_bytes(meta["revocations"]), list[bytes])) if "revocations" in meta else (),
            checkpoints=tuple(_bytes(row["bundle"]) for row in sim.disk.rows("checkpoints")),
            forks=tuple((_bytes(row["first"]), _bytes(row["second"])) for row in sim.disk.rows("forks")),
        )
        rng = random.Random(self.rng.randrange(1 << 62))
        boot_id = rng.randbytes(16)
        certificate = _bytes(meta.get("certificate", sim.member.certificate))
        chain = tuple(unpack(_bytes(meta["roster"]), list[bytes], 1 << 20)) if "roster" in meta else self.mesh.chain
        mesh = Mesh(sim.member.identity, certificate, chain, Limits(), rng, stored, SimSessions)
        spent = [(_bytes(row["nonce"]), int(str(row["step"]))) for row in sim.disk.rows("spent")]
        sim.gate = Gate(sim.member.identity.id, self.mesh.mesh_id, boot_id, sim.catalogue, sim.settings.mode, spent)
        history = sorted(sim.disk.rows("history"), key=lambda row: int(row["at"] or 0))
        taught = lessons(history, node_text(sim.member.identity.id))
        sim.node = Node(mesh, Agent(mesh, boot_id, sim.catalogue, sim.settings, rng, taught))
        sim.node.start(now)
        self._carry_out(sim)

    def crash(self, sim: SimNode) -> None:
        """Kill the agent; what its disk has not synced is gone."""
        sim.node = None
        sim.disk.crash()
        self.trace.note(self.clock.now_ns, sim.name, "crash")

    def command(self, sim: SimNode, do: Callable[[Node], object]) -> None:
        """Make a running agent do something: an operator's command, or an adversary's word."""
        if (node := sim.node) is not None:
            node.command(lambda: do(node), self.clock.instant())
            self._carry_out(sim)

    # -- effects -------------------------------------------------------------------------------------------------------

    def _carry_out(self, sim: SimNode) -> None:
        node = sim.node
        if node is None:
            return
        for effect in node.poll_effects():
            self._effect(sim, node, effect)
        deadline = node.next_deadline()
        if deadline is not None and deadline not in sim.wakes:
            sim.wakes.add(deadline)
            self.clock.at(deadline, lambda: self._wake(sim, deadline))

    def _wake(self, sim: SimNode, deadline: int) -> None:
        sim.wakes.discard(deadline)
        if sim.node is not None:
            sim.node.handle_timer(self.clock.instant())
            self._carry_out(sim)

    def _effect(self, sim: SimNode, node: Node, effect: Effect) -> None:
        now_ns = self.clock.now_ns
        match effect:
            case Send(address, data):
                self.trace.note(now_ns, sim.name, "send", data)
                self.network.datagram(sim.address, address, len(data), lambda: self._deliver(sim.address, address, data))
            case SendBulk(_, address, data):
                self.trace.note(now_ns, sim.name, "bulk", data)
                peer = sim.member.identity.id
                self.network.bulk(sim.address, address, len(data), lambda: self._deliver_bulk(peer, address, data))
            case Knock(token, _, address, wait_ms):
                self._knock(sim, node, token, address, wait_ms)
            case Persist(token, rows):
                self.trace.note(now_ns, sim.name, f"persist {[put.table for put in rows]}")
                sim.disk.write(rows, lambda: self._event(sim, node, Persisted(token)))
            case Sample(token, _):
                reading = None if sim.host.unreadable else sim.host.read()
                self._answer(sim, node, Sampled(token, reading, sim.host.unreadable))
            case Estimate(token, steps):
                self._answer(sim, node, Estimated(token, tuple(sim.host.measure(step) for step in steps)), 5 * NS_PER_MS)
            case RequestPlan(token, request):
                ranking, think_ns = self._think(request)
                self._answer(sim, node, PlanReady(token, ranking), think_ns)
            case RunStep():
                self._run(sim, node, effect)
            case Notify(topic, incident, text):
                self.trace.tell(now_ns, sim.name, topic, incident, text)

    def _run(self, sim: SimNode, node: Node, request: RunStep) -> None:
        """The guard's part: admit, spend durably, run, answer. A crash may fall between any two of these."""
        if sim.gate is None:
            return
        admitted = sim.gate.admit(request, self.clock.instant())
        if not isinstance(admitted, Admitted):
            self._answer(sim, node, StepDone(request.token, "refused", admitted.reason))
            return
        step, nonce = admitted.step, _bytes(admitted.spent.row["nonce"])

        def run() -> None:
            if sim.node is not node:
                return
            self.ran.append((sim.name, nonce, request.index))
            verdict, detail, freed = sim.host.run(step, sim.catalogue)
            self._answer(sim, node, StepDone(request.token, verdict, detail, freed), 20 * NS_PER_MS)

        sim.disk.write((admitted.spent,), lambda: self.clock.after(NS_PER_MS, run))

    def _think(self, request: PlanRequest) -> tuple[Ranking, int]:
        """A small model: slow, and no better than chance."""
        order = list(range(len(request.candidates)))
        self.rng.shuffle(order)
        think_ns = self.rng.randrange(1 * NS_PER_S, 4 * NS_PER_S)
        return Ranking(tuple(order), "simulated model", "llm", "sim", 0, think_ns // NS_PER_MS), think_ns

    def _answer(self, sim: SimNode, node: Node, answer: Answer, wait_ns: int = NS_PER_MS) -> None:
        self.clock.after(wait_ns, lambda: self._event(sim, node, answer))

    def _event(self, sim: SimNode, node: Node, event: MeshEvent | Answer) -> None:
        if sim.node is node:  # else it crashed in between
            node.handle_event(event, self.clock.instant())
            self._carry_out(sim)

    def _knock(self, sim: SimNode, node: Node, token: int, address: Address, wait_ms: int) -> None:
        """A TCP connection: refused by a host without agent, spoken to by one with, silence across a cut."""
        answered: list[str] = []

        def there() -> None:
            up = any(other.address == address and other.node is not None for other in self.nodes)
            self.network.bulk(address, sim.address, 60, lambda: back("spoke" if up else "refused"))

        def back(met: str) -> None:
            answered.append(met)
            self._event(sim, node, Knocked(token, met))

        self.network.bulk(sim.address, address, 60, there)
        self.clock.after(wait_ms * NS_PER_MS, lambda: None if answered else self._event(sim, node, Knocked(token, "silent")))

    def _refuse(self, source: Address, target: Address) -> None:
        """ICMP port unreachable comes back."""
        for sim in self.nodes:
            if sim.address == source and sim.node is not None:
                self._event(sim, sim.node, PortRefused(target))

    def _deliver(self, source: Address, target: Address, data: bytes) -> None:
        for sim in self.nodes:
            if sim.address == target and sim.node is None:
                self.network.bulk(target, source, 60, lambda: self._refuse(source, target))
            elif sim.address == target and sim.node is not None:
                sim.node.handle_datagram(data, source, self.clock.instant())
                self._carry_out(sim)

    def _deliver_bulk(self, peer: bytes, target: Address, data: bytes) -> None:
        for sim in self.nodes:
            if sim.address == target and sim.node is not None:
                sim.node.handle_bulk(peer, data, self.clock.instant())
                self._carry_out(sim)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _number(key: str, value: int) -> Put:
    return Put("meta", {"key": key, "value": value.to_bytes(8, "big")})
