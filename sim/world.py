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
from cloudisense.agent.plan import PlanRequest, Ranking, Step
from cloudisense.agent.requests import Answer
from cloudisense.agent.settings import Settings
from cloudisense.keys.encoding import unpack
from cloudisense.keys.identity import node_text
from cloudisense.keys.testing import TestMember, TestMesh
from cloudisense.mesh.core import Event as MeshEvent
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Knock, Persist, Put, Send, SendBulk
from cloudisense.mesh.events import Knocked, Persisted, PortRefused
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S, Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.membership import DEPARTURE
from cloudisense.mesh.outbound import News
from cloudisense.mesh.pruning import intact
from cloudisense.mesh.stored import Stored
from cloudisense.sim.clock import Clock
from cloudisense.sim.disk import Disk
from cloudisense.sim.fast import SimSessions, keyring, member_of, remembering
from cloudisense.sim.host import MB, Host
from cloudisense.sim.host_clock import HostClock
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
    clock: HostClock
    node: Node | None = None
    gate: Gate | None = None
    boot: int = 0
    wakes: set[int] = field(default_factory=set[int])
    byzantine: bool = False
    """Its word proves nothing, and no invariant is promised for it."""
    frozen: bool = False
    """Stopped: its kernel lives on and keeps what comes in, up to a point."""
    waiting: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    boot_id: bytes = b""
    asked: list[RunStep] = field(default_factory=list[RunStep])
    """What its agent has asked its guard for: what a thief of the agent could ask again."""


@dataclass(frozen=True, slots=True)
class Run:
    """One step as the executor began it, in true time. ``boot_ns`` is by the host's clock."""

    at_ns: int
    host: str
    nonce: bytes
    index: int
    step: Step
    request: RunStep
    boot_ns: int
    boot_id: bytes


KEPT_DATAGRAMS = 500
"""What the socket of a frozen agent holds for it."""


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
        self.runs: list[Run] = []
        """The same with everything that an outsider could see."""
        self.point: Callable[[SimNode, str], None] = lambda sim, what: None
        """Told just before and after each send, sync and action: a host may crash there."""
        self.news: Callable[[SimNode, News, bool], None] = lambda sim, news, starting: None
        """Told of all that a mesh tells its agent."""
        for i in range(nodes):
            self.nodes.append(self._make(i, actions, PATHS if i < subjects else ()))
        self._at = {sim.address: sim for sim in self.nodes}

    def _make(self, i: int, actions: tuple[Action, ...], paths: tuple[DeclaredPath, ...]) -> SimNode:
        name = f"n{i + 1}"
        host = Host("/vol", 64 * MB, paths)
        sim = SimNode(
            name,
            (f"10.0.0.{i + 1}", 7963),
            member_of(self.seed, name),
            Settings(model=i == 1),
            host,
            Disk(self.clock, random.Random(self.rng.randrange(1 << 62))),
            Catalogue(actions, paths),
            HostClock(self.clock),
        )
        sim.disk.point = lambda what: self.point(sim, what)
        return sim

    @property
    def honest(self) -> list[SimNode]:
        """Those for whom invariants are promised."""
        return [sim for sim in self.nodes if not sim.byzantine]

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def start(self, sim: SimNode) -> None:
        """Boot an agent from what its disk holds."""
        now = sim.clock.instant()
        sim.frozen, sim.waiting = False, []
        meta = {row["key"]: row["value"] for row in sim.disk.rows("meta")}
        incarnation = int.from_bytes(_bytes(meta.get("incarnation", b"")), "big") + 1
        sim.boot = int.from_bytes(_bytes(meta.get("boot", b"")), "big") + 1
        sim.disk.write_now((_number("incarnation", incarnation), _number("boot", sim.boot)))
        entries = sorted(sim.disk.rows("entries"), key=lambda row: (row["node"], row["generation"], row["number"]))
        entries = [row for row in entries if intact(_bytes(row["data"]), row["hash"])]
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
        sim.boot_id, sim.asked = boot_id, []
        agent = Agent(mesh, boot_id, sim.catalogue, sim.settings, rng, taught)
        sim.node = Node(mesh, agent)
        hear, starting = agent.handle_news, True

        def overhear(news: News, now: Instant) -> None:
            self.news(sim, news, starting)
            hear(news, now)

        agent.handle_news = overhear
        with remembering():
            sim.node.start(now)
        starting = False
        self._carry_out(sim)

    def crash(self, sim: SimNode, survive: Callable[[int], int] = lambda waiting: 0) -> None:
        """Kill the agent; what its disk has not synced is gone, but for what ``survive`` says (``Disk.crash``)."""
        sim.node = None
        sim.disk.crash(survive)
        self.trace.note(self.clock.now_ns, sim.name, "crash")

    def freeze(self, sim: SimNode) -> None:
        """Stop the agent's process. Its host lives on."""
        sim.frozen = True

    def thaw(self, sim: SimNode) -> None:
        """Let it go on: it finds what waited, and its timers late."""
        sim.frozen, waiting, sim.waiting = False, sim.waiting, []
        for do in waiting:
            do()
        self._wake(sim, -1)

    def command(self, sim: SimNode, do: Callable[[Node], object]) -> None:
        """Make a running agent do something: an operator's command, or an adversary's word."""
        if (node := sim.node) is not None:
            node.command(lambda: do(node), sim.clock.instant())
            self._carry_out(sim)

    # -- effects -------------------------------------------------------------------------------------------------------

    def _carry_out(self, sim: SimNode) -> None:
        node = sim.node
        if node is None:
            return
        for effect in node.poll_effects():
            self._effect(sim, node, effect)
            if sim.node is not node:
                return  # it died over this one
        deadline = node.next_deadline()
        if deadline is not None and deadline not in sim.wakes:
            sim.wakes.add(deadline)
            self.clock.at(sim.clock.true_ns(deadline), lambda: self._wake(sim, deadline))

    def _wake(self, sim: SimNode, deadline: int) -> None:
        sim.wakes.discard(deadline)
        if sim.node is not None and not sim.frozen:
            sim.node.handle_timer(sim.clock.instant())
            self._carry_out(sim)

    def _give(self, sim: SimNode, node: Node | None, do: Callable[[Node], None]) -> None:
        """Hand something to that very agent, now or when it goes on."""

        def give() -> None:
            if node is not None and sim.node is node:
                do(node)
                self._carry_out(sim)

        if not sim.frozen:
            give()
        elif len(sim.waiting) < KEPT_DATAGRAMS:
            sim.waiting.append(give)

    def _effect(self, sim: SimNode, node: Node, effect: Effect) -> None:
        now_ns = self.clock.now_ns
        match effect:
            case Send(address, data):
                self.point(sim, "before send")
                if sim.node is not node:
                    return
                self.trace.note(now_ns, sim.name, "send", data)
                if self.network.weather.corrupt and self.rng.random() < self.network.weather.corrupt:
                    data = flipped(data, self.rng)
                self.network.datagram(sim.address, address, len(data), lambda: self._deliver(sim.address, address, data))
                self.point(sim, "after send")
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
                sim.asked.append(effect)
                self.run_step(sim, effect)
            case Notify(topic, incident, text):
                self.trace.tell(now_ns, sim.name, topic, incident, text)

    def run_step(self, sim: SimNode, request: RunStep) -> None:
        """The guard's part: admit, spend durably, run, answer. A crash may fall between any two of these."""
        node = sim.node
        if sim.gate is None or node is None:
            return
        admitted = sim.gate.admit(request, sim.clock.instant())
        if not isinstance(admitted, Admitted):
            self._answer(sim, node, StepDone(request.token, "refused", admitted.reason))
            return
        step, nonce = admitted.step, _bytes(admitted.spent.row["nonce"])

        def run() -> None:
            if sim.node is node:
                self.point(sim, "before action")
            if sim.node is not node:
                return
            now = sim.clock.instant()
            self.ran.append((sim.name, nonce, request.index))
            self.runs.append(Run(self.clock.now_ns, sim.name, nonce, request.index, step, request, now.boot_ns, sim.boot_id))
            verdict, detail, freed = sim.host.run(step, sim.catalogue)
            self.point(sim, "after action")
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
        self._give(sim, node, lambda node: node.handle_event(event, sim.clock.instant()))

    def _knock(self, sim: SimNode, node: Node, token: int, address: Address, wait_ms: int) -> None:
        """A TCP connection: refused by a host without agent, spoken to by one with, silence across a cut."""
        answered: list[str] = []

        def there() -> None:
            other = self._at.get(address)
            if other is not None and other.frozen and other.node is not None:
                self.clock.after(wait_ms * NS_PER_MS * 3 // 4, lambda: back("mute"))
                return
            up = other is not None and other.node is not None
            self.network.bulk(address, sim.address, 60, lambda: back("spoke" if up else "refused"))

        def back(met: str) -> None:
            if not answered:
                answered.append(met)
                self._event(sim, node, Knocked(token, met))

        self.network.bulk(sim.address, address, 60, there)
        self.clock.after(wait_ms * NS_PER_MS, lambda: None if answered else self._event(sim, node, Knocked(token, "silent")))

    def _refuse(self, sim: SimNode, target: Address) -> None:
        """ICMP port unreachable comes back."""
        if sim.node is not None:
            self._event(sim, sim.node, PortRefused(target))

    def deliver(self, source: Address, target: Address, data: bytes) -> None:
        """A datagram comes in at ``target``, from wherever it says."""
        self._deliver(source, target, data)

    def _deliver(self, source: Address, target: Address, data: bytes) -> None:
        sim, sender = self._at.get(target), self._at.get(source)
        if sim is not None and sim.node is not None:
            self._give(sim, sim.node, lambda node: node.handle_datagram(data, source, sim.clock.instant()))
        elif sim is not None and sender is not None:
            self.network.bulk(target, source, 60, lambda: self._refuse(sender, target))

    def _deliver_bulk(self, peer: bytes, target: Address, data: bytes) -> None:
        sim = self._at.get(target)
        if sim is not None:
            self._give(sim, sim.node, lambda node: node.handle_bulk(peer, data, sim.clock.instant()))


def flipped(data: bytes, rng: random.Random) -> bytes:
    """``data`` with one bit changed."""
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""


def _number(key: str, value: int) -> Put:
    return Put("meta", {"key": key, "value": value.to_bytes(8, "big")})
