"""Meshes alone, without agents: many ``Mesh`` objects in virtual time, for questions about membership only.

Hosts can stop (their kernel lives on: it accepts TCP and keeps datagrams), lose their agent (their kernel refuses), vanish
(nothing answers), move to another address, and be cut off from each other.
"""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from cloudisense.keys.testing import TestMember, TestMesh
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Knock, Persist, Put, Send, SendBulk
from cloudisense.mesh.events import Knocked, MemberChanged, Persisted, PortRefused
from cloudisense.mesh.instant import NS_PER_MS, NS_PER_S
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.membership import DEPARTURE
from cloudisense.mesh.outbound import News
from cloudisense.mesh.stored import Stored
from cloudisense.sim.clock import Clock
from cloudisense.sim.disk import Disk
from cloudisense.sim.fast import SimSessions, acquaint, keyring, member_of, remembering
from cloudisense.sim.network import Network, Weather

VOTERS = 3
"""The first hosts vote."""
STOPPED_DATAGRAMS = 500
"""What the socket of a stopped agent holds for it."""


@dataclass(slots=True)
class Host:
    """One host. Its agent runs when ``mesh`` is there and ``stopped`` is false; ``vanished``: no packet passes."""

    name: str
    address: Address
    member: TestMember
    disk: Disk
    mesh: Mesh | None = None
    stopped: bool = False
    vanished: bool = False
    boot: int = 0
    news: list[tuple[int, News]] = field(default_factory=list[tuple[int, News]])
    """When, in nanoseconds, and what."""
    waiting: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])
    """What a stopped agent will find when it goes on."""
    wakes: set[int] = field(default_factory=set[int])

    @property
    def id(self) -> bytes:
        return self.member.identity.id

    def live(self) -> Mesh:
        """The running mesh."""
        assert self.mesh is not None
        return self.mesh


class Meshes:
    """``count`` hosts named n1, n2, ...; the first is the seed of all. Nothing runs before ``run``."""

    def __init__(
        self, count: int, seed: int = 1, limits: Limits | None = None, weather: Weather | None = None, joined: bool = False
    ) -> None:
        """With ``joined`` they have met already: nobody greets anybody."""
        self.seed = seed
        self.limits = limits or Limits()
        self.keys: TestMesh = keyring(seed)
        voters = tuple(member_of(seed, f"n{i}").identity.id for i in range(1, VOTERS + 1))
        roster = self.keys.roster
        voted = msgspec.structs.replace(roster, number=roster.number + 1, epoch=roster.epoch + 1, voters=voters)
        self.chain = self.keys.sign(voted)
        self.clock = Clock()
        self.clock.within = remembering
        self.clock.now_ns = 1000 * NS_PER_S
        self.rng = random.Random(seed)
        self.network = Network(self.clock, random.Random(self.rng.randrange(1 << 62)), weather or Weather())
        self.hosts: list[Host] = []
        self._at: dict[Address, Host] = {}
        self._joined = joined
        for _ in range(count):
            self.add()
        if joined:
            acquaint([host.live() for host in self.hosts], self.clock.instant())

    def __getitem__(self, i: int) -> Host:
        return self.hosts[i]

    def add(self, name: str = "", address: Address | None = None, member: TestMember | None = None) -> Host:
        """One more host, its agent started. At another's ``address`` it takes that one's place."""
        number = len(self.hosts) + 1
        name = name or f"n{number}"
        disk = Disk(self.clock, random.Random(self.rng.randrange(1 << 62)))
        host = Host(name, address or (f"10.0.{number // 250}.{number % 250 + 1}", 7963), member or member_of(self.seed, name), disk)
        self.hosts.append(host)
        self._at[host.address] = host
        self.start(host)
        return host

    # -- what happens to hosts -----------------------------------------------------------------------------------------

    def start(self, host: Host, seeds: tuple[Address, ...] | None = None) -> None:
        """Start the agent from what its disk holds."""
        meta = {str(row["key"]): _bytes(row["value"]) for row in host.disk.rows("meta")}
        numbers = {key: int.from_bytes(meta.get(key, b""), "big") + 1 for key in ("boot", "incarnation")}
        host.disk.write_now(tuple(Put("meta", {"key": key, "value": value.to_bytes(8, "big")}) for key, value in numbers.items()))
        rows = host.disk.rows("members")
        departures = [meta[key] for key in sorted(meta) if key.startswith(DEPARTURE)]
        entries = sorted(host.disk.rows("entries"), key=lambda row: (row["node"], row["generation"], row["number"]))
        stored = Stored(
            host.name,
            host.address,
            numbers["boot"],
            numbers["incarnation"],
            (*((_bytes(r["claim"]), _bytes(r["certificate"])) for r in rows), *((d, b"") for d in departures)),
            tuple(_bytes(row["data"]) for row in entries),
            self._seeds() if seeds is None else seeds,
            states=tuple(str(r["state"]) for r in rows),
            checkpoints=tuple(_bytes(row["bundle"]) for row in host.disk.rows("checkpoints")),
            forks=tuple((_bytes(row["first"]), _bytes(row["second"])) for row in host.disk.rows("forks")),
        )
        rng = random.Random(self.rng.randrange(1 << 62))
        host.mesh = Mesh(host.member.identity, host.member.certificate, self.chain, self.limits, rng, stored, SimSessions)
        host.stopped, host.vanished, host.waiting = False, False, []
        host.mesh.start(self.clock.instant())
        self.settle(host)

    def _seeds(self) -> tuple[Address, ...]:
        return () if self._joined else (self.hosts[0].address,)

    def kill(self, host: Host) -> None:
        """The agent dies; its host stays up. What is not synced is gone."""
        host.mesh = None
        host.disk.crash()

    def tell(self, host: Host, do: Callable[[Mesh], object]) -> None:
        """Make a running agent do something."""
        do(host.live())
        self.settle(host)

    def append(self, host: Host, kind: str, body: bytes) -> None:
        """Let it say something, if it runs."""
        if host.mesh is not None:
            self.tell(host, lambda mesh: mesh.append(kind, body, self.clock.instant()))

    def propose(self, host: Host) -> None:
        """Let it look now, if it runs, whether its history is too long."""
        if host.mesh is not None:
            self.tell(host, lambda mesh: mesh.pruner.propose(self.clock.instant()))

    def inject(self, host: Host, source: Host, data: bytes) -> None:
        """A message of ``source`` comes in at ``host`` by stream, whatever ``source`` itself would send."""
        if host.mesh is not None:
            self.tell(host, lambda mesh: mesh.handle_bulk(source.id, data, self.clock.instant()))

    def go_on(self, host: Host) -> None:
        """SIGCONT: the agent finds its timers late and what its socket kept."""
        host.stopped, waiting, host.waiting = False, host.waiting, []
        for do in waiting:
            do()
        self._wake(host, 0)

    def move(self, host: Host, address: Address) -> None:
        """The host has another address from now on. Start its agent anew."""
        del self._at[host.address]
        host.address = address
        self._at[address] = host

    def cut(self, some: Iterable[Host], others: Iterable[Host], one_way: bool = False) -> None:
        """Nothing passes from ``some`` to ``others`` any more, nor back unless ``one_way``."""
        targets = list(others)
        for a in some:
            for b in targets:
                self.network.partition(a.address, b.address, one_way)

    # -- time ----------------------------------------------------------------------------------------------------------

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass, at most ``seconds``; true as soon as ``until`` holds."""
        return self.clock.run(self.clock.now_ns + round(seconds * NS_PER_S), until)

    def seconds_until(self, what: Callable[[], bool], limit_s: float) -> float:
        """How long it takes until ``what`` holds; more than ``limit_s`` when it does not within it."""
        begin = self.clock.now_ns
        return (self.clock.now_ns - begin) / NS_PER_S if self.run(limit_s, what) else limit_s + 1

    # -- what can be seen ----------------------------------------------------------------------------------------------

    def state(self, at: Host, of: Host) -> str:
        """What ``at`` holds of ``of``."""
        member = at.live().members.get(of.id)
        return member.state if member is not None else "unknown"

    def all_see(self, of: Host, state: str, among: Iterable[Host] | None = None) -> bool:
        """Do all running agents hold ``of`` to be ``state``?"""
        at = among if among is not None else [h for h in self.hosts if h.mesh is not None and not h.stopped and not h.vanished]
        return all(self.state(h, of) == state for h in at if h is not of)

    def whole(self, among: list[Host] | None = None) -> bool:
        """Do all that run see exactly all that run?"""
        up = among if among is not None else [h for h in self.hosts if h.mesh is not None and not h.vanished]
        ids = {h.id for h in up}
        return all({m.node for m in h.live().members.values() if m.state == "alive"} | {h.id} == ids for h in up)

    def told(self, at: Host, kind: type[News]) -> list[News]:
        """News of one kind that it had."""
        return [item for _, item in at.news if isinstance(item, kind)]

    def changes(self, at: Host, of: Host, since_ns: int = 0) -> list[str]:
        """States of ``of`` that ``at`` has reported, suspicion left out."""
        told = [item for when, item in at.news if when >= since_ns and isinstance(item, MemberChanged) and item.node == of.id]
        return [item.state for item in told if item.state != "suspect"]

    # -- effects -------------------------------------------------------------------------------------------------------

    def settle(self, host: Host) -> None:
        """Carry out what the agent of ``host`` wants; call it after every call into its mesh."""
        mesh = host.mesh
        if mesh is None:
            return
        while news := mesh.poll_news():
            host.news += [(self.clock.now_ns, item) for item in news]
        for effect in mesh.poll_effects():
            match effect:
                case Send(address, data):
                    self._send(host, address, data)
                case SendBulk(to, address, data):
                    self._bulk(host, to, address, data)
                case Knock():
                    self._knock(host, mesh, effect)
                case Persist(token, rows):
                    host.disk.write(rows, lambda token=token: self._durable(host, mesh, token))
        deadline = mesh.next_deadline()
        if deadline is not None and deadline not in host.wakes:
            host.wakes.add(deadline)
            self.clock.at(deadline, lambda: self._wake(host, deadline))

    def _wake(self, host: Host, deadline: int) -> None:
        host.wakes.discard(deadline)
        if host.mesh is not None and not host.stopped:
            host.mesh.handle_timer(self.clock.instant())
            self.settle(host)

    def _run(self, host: Host, mesh: Mesh, do: Callable[[], None]) -> None:
        """Give something to that very agent, now or when it goes on."""

        def give() -> None:
            if host.mesh is mesh:
                do()
                self.settle(host)

        if not host.stopped:
            give()
        elif len(host.waiting) < STOPPED_DATAGRAMS:
            host.waiting.append(give)

    def _send(self, source: Host, address: Address, data: bytes) -> None:
        origin = source.address
        self.network.datagram(origin, address, len(data), lambda: self._arrive(source, origin, address, data))

    def _arrive(self, source: Host, origin: Address, address: Address, data: bytes) -> None:
        target = self._at.get(address)
        if target is None or target.vanished or source.vanished:
            return
        mesh = target.mesh
        if mesh is not None:
            self._run(target, mesh, lambda: mesh.handle_datagram(data, origin, self.clock.instant()))
            return
        refused = source.mesh
        if refused is not None:
            event = PortRefused(address)
            deliver = lambda: self._run(source, refused, lambda: refused.handle_event(event, self.clock.instant()))  # noqa: E731
            self.network.bulk(address, origin, 60, deliver)

    def _bulk(self, source: Host, to: bytes, address: Address, data: bytes) -> None:
        def arrive() -> None:
            target = self._at.get(address)
            if target is not None and target.mesh is not None and not target.vanished and not source.vanished and target.id == to:
                mesh = target.mesh
                self._run(target, mesh, lambda: mesh.handle_bulk(source.id, data, self.clock.instant()))

        self.network.bulk(source.address, address, len(data), arrive)

    def _knock(self, source: Host, mesh: Mesh, knock: Knock) -> None:
        """As ``cloudisense.net.knock``: by whose key answers, if any."""
        origin, answered = source.address, list[str]()

        def back(met: str) -> None:
            if not source.vanished and not answered:
                answered.append(met)
                self._run(source, mesh, lambda: mesh.handle_event(Knocked(knock.token, met), self.clock.instant()))

        def there() -> None:
            target = self._at.get(knock.address)
            if target is None or target.vanished:
                return
            if target.stopped:
                self.clock.after(knock.wait_ms * NS_PER_MS * 3 // 4, lambda: back("mute"))
            else:
                met = "spoke" if target.mesh is not None and target.id == knock.node else "refused"
                self.network.bulk(knock.address, origin, 60, lambda: back(met))

        self.network.bulk(origin, knock.address, 60, there)
        self.clock.after(knock.wait_ms * NS_PER_MS, lambda: back("silent"))

    def _durable(self, host: Host, mesh: Mesh, token: int) -> None:
        if host.mesh is mesh:
            self._run(host, mesh, lambda: mesh.handle_event(Persisted(token), self.clock.instant()))


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else b""
