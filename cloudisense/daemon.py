"""The agent on a real host: one asyncio loop that feeds the node's core and carries its effects out.

The core decides; this file only moves bytes, time and answers between it and the world.
"""

import asyncio
import contextlib
import ipaddress
import random
import secrets
import signal
import time
from collections.abc import Callable
from typing import Any

import psutil

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.core import Agent
from cloudisense.agent.effects import Estimate, Notify, RequestPlan, RunStep, Sample
from cloudisense.agent.entries import NOTE_BYTES
from cloudisense.agent.events import Estimated, FileSystem, PlanFailed, PlanReady, Sampled
from cloudisense.agent.memory import lessons
from cloudisense.agent.node import Effect, Node
from cloudisense.agent.requests import Answer
from cloudisense.agent.settings import Settings
from cloudisense.clock import read_clock
from cloudisense.config import Config
from cloudisense.control import ControlServer
from cloudisense.guard import Guard
from cloudisense.home import Home, Membership, mesh_text
from cloudisense.host.catalogue import builtin_actions, declare
from cloudisense.host.executor import Executor
from cloudisense.host.probes import read_file_system
from cloudisense.host.thread import in_thread
from cloudisense.joining import Issuer
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import node_text
from cloudisense.keys.tls import private_pem
from cloudisense.llm.models import Model
from cloudisense.llm.planner import ModelPlanner, PlannerFailed
from cloudisense.mesh.address import address_text, reachable
from cloudisense.mesh.core import Event as MeshEvent
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Knock, Persist, Send, SendBulk
from cloudisense.mesh.events import Knocked, Persisted, PortRefused, SendFailed
from cloudisense.mesh.instant import NS_PER_S, Instant
from cloudisense.mesh.limits import PROFILES
from cloudisense.mesh.membership import DEPARTURE
from cloudisense.mesh.pruning import intact
from cloudisense.mesh.stored import Stored
from cloudisense.net.knock import knock
from cloudisense.net.streams import StreamClient, StreamServer, TlsOwn
from cloudisense.net.udp import UdpEndpoint
from cloudisense.standing import Standing
from cloudisense.store import Store
from cloudisense.writer import Writer

SAMPLE_TIMEOUT_S = 5.0
"""A file system that does not answer by then (a dead network mount) counts as unreadable."""
GOODBYE_S = 0.3


class Daemon:
    """One running agent. ``say`` is given what the node tells its operator."""

    def __init__(self, home: Home, config: Config, model: Model | None, say: Callable[[Notify], None]) -> None:
        self._home = home
        self._config = config
        self._say = say
        self._member = home.load()
        self._catalogue = Catalogue(builtin_actions(), declare([(path.path, path.role) for path in config.paths]))
        self._executor = Executor(self._catalogue)
        self._model = model
        self._stopping = asyncio.Event()
        self._left = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._started_ns = time.time_ns()
        self._reading: dict[str, asyncio.Future[FileSystem]] = {}
        self._serving = False
        self._broken: BaseException | None = None

    async def run(self, ready: Callable[[Address], None]) -> None:
        """Serve until a signal or ``leave``. ``ready`` is told the bound address. ``ValueError`` for what a person can mend.

        An error of ours ends it too, and is raised once all is closed: a node never acts on half of what it meant to do.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        async with contextlib.AsyncExitStack() as opened:
            self._store = Store(self._home.database)
            opened.callback(self._store.close)
            self._standing = Standing(self._home, self._member, self._store, self._config.mesh.voters, self._do)
            await self._open_sockets(opened)
            self._node = self._make_node()
            self._writer = Writer(self._store, self._persisted, self._write_failed)
            opened.push_async_callback(self._writer.close)
            opened.push_async_callback(self._wind_down)
            self._serving = True
            self._do(self._node.start)
            self._spawn(self._standing.upkeep())
            control = ControlServer(self._home.socket, self._command)
            await control.start()
            opened.push_async_callback(control.close)
            ready(self._bound)
            if self._config.mesh.discovery:
                lan = await self._discover()
                if lan is not None:
                    opened.push_async_callback(lan.close)
            await self._stopping.wait()
        if self._broken is not None:
            raise self._broken

    def _make_node(self) -> Node:
        member, config = self._member, self._config
        boot, incarnation = self._home.next_boot(self._store)
        stored = Stored(
            name=member.name,
            address=self._reachable(),
            boot=boot,
            incarnation=incarnation,
            members=(
                *((bytes(row["claim"]), bytes(row["certificate"])) for row in self._store.rows("members", order_by=["node"])),
                *((bytes(row["value"]), b"") for row in self._store.rows("meta", order_by=["key"]) if row["key"].startswith(DEPARTURE)),
            ),
            states=tuple(row["state"] for row in self._store.rows("members", order_by=["node"])),
            entries=tuple(
                bytes(row["data"])
                for row in self._store.rows("entries", order_by=["node", "generation", "number"])
                if intact(row["data"], row["hash"])
            ),
            seeds=tuple(dict.fromkeys((*self._seeds, *member.seeds))),
            revocations=tuple(unpack(self._store.get_meta("revocations") or pack([]), list[bytes])),
            checkpoints=tuple(bytes(row["bundle"]) for row in self._store.rows("checkpoints", order_by=["node"])),
            forks=tuple((bytes(row["first"]), bytes(row["second"])) for row in self._store.rows("forks", order_by=["node"])),
            rival=self._home.rival(),
        )
        mode = {"observe": "act", "reversible": config.mode.reversible}
        mode |= {"disruptive": config.mode.disruptive, "destructive": config.mode.destructive}
        settings = Settings(mode=mode, planners=config.agent.planners, model=self._model is not None, sample_ms=config.agent.sample_ms)
        rng = random.SystemRandom()
        mesh = Mesh(member.identity, member.certificate, member.chain, PROFILES[config.mesh.profile], rng, stored)
        guard_boot = secrets.token_bytes(16)
        self._guard = Guard(member.identity.id, member.mesh_id, guard_boot, self._catalogue, mode, self._store)
        self._issuer = Issuer(member, self._store, stored.address)
        taught = lessons(self._store.rows("history", order_by=["at"]), node_text(member.identity.id))
        node = Node(mesh, Agent(mesh, guard_boot, self._catalogue, settings, rng, taught))
        self._standing.bind(node, self._issuer, self._server, self._client)
        return node

    # -- sockets -------------------------------------------------------------------------------------------------------

    async def _open_sockets(self, opened: contextlib.AsyncExitStack) -> None:
        host, port = self._config.mesh.bind_address
        own = TlsOwn(self._member.leaf, private_pem(self._member.identity))
        anchors = [issuer.anchor for issuer in self._member.roster.issuers]
        self._seeds = await _resolved(self._config.mesh.seed_addresses)
        self._server = StreamServer(
            own,
            anchors,
            admit=self._admit,
            on_bulk=self._bulk,
            on_join=self._join,
            roster_chain=lambda: self._standing.member.chain,
            on_renew=self._standing.renewal,
        )
        await self._server.start(host, port)
        opened.push_async_callback(self._server.close)
        self._udp = await UdpEndpoint.open(host, self._server.port, self._datagram, self._port_refused, self._send_failed)
        opened.callback(self._udp.close)
        self._bound = (host, self._server.port)
        self._client = StreamClient(own, anchors)
        opened.push_async_callback(self._client.close)
        self._planner = self._make_planner()
        if self._planner is not None:
            opened.push_async_callback(self._planner.close)

    def _make_planner(self) -> ModelPlanner | None:
        if self._model is None:
            return None
        model = self._config.model
        return ModelPlanner(
            self._model.path, model.threads or None, memory_mb=model.memory_mb, timeout_s=model.timeout_s, idle_s=model.idle_s
        )

    def _reachable(self) -> Address:
        """Where peers find us: as configured, or as bound, or the first address of this host that is not loopback."""
        if self._config.mesh.advertise_address is not None:
            return self._config.mesh.advertise_address
        return (own_addresses(self._bound[0])[0], self._bound[1])

    async def _discover(self) -> Any:
        """Look for members on the LAN; without multicast we go on, and say so."""
        from cloudisense.net.lan import LanDiscovery

        def found(address: Address) -> None:
            self._do(lambda now: self._node.command(lambda: self._node.mesh.greet(address), now))

        lan = LanDiscovery(self._member.mesh_id, self._member.identity.id, self._reachable(), found)
        try:
            await lan.start()
        except (OSError, RuntimeError, ValueError) as error:
            self._say(Notify("lan", "", f"no discovery on the LAN: {error}"))
            return None
        return lan

    def _admit(self, node: bytes) -> bool:
        return not self._standing.member.roster.is_revoked(node)

    def _datagram(self, data: bytes, source: Address) -> None:
        self._do(lambda now: self._node.handle_datagram(data, source, now))

    def _bulk(self, peer: bytes, data: bytes) -> None:
        self._do(lambda now: self._node.handle_bulk(peer, data, now))

    async def _join(self, body: bytes, source: str) -> bytes:
        if not self._serving:
            raise RemoteProtocolError("this agent is only starting, or stopping; try again")
        return await self._issuer.answer(body, list(self._node.mesh.members.values()))

    # -- effects -------------------------------------------------------------------------------------------------------

    def _do(self, work: Callable[[Instant], None]) -> None:
        """Let the core take something in, and carry out what it decides. A node that starts or stops takes nothing in."""
        if not self._serving:
            return
        try:
            work(read_clock())
            self._carry_out()
        except Exception as error:
            self._break(error)

    def _carry_out(self) -> None:
        self._standing.sync()
        for effect in self._node.poll_effects():
            self._effect(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._node.next_deadline()
        if deadline is not None:
            wait_s = max(0.0, (deadline - read_clock().boot_ns) / NS_PER_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._do(self._node.handle_timer)

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Send(address, data):
                self._udp.send(address, data)
            case SendBulk(to, address, data):
                self._spawn(self._send_bulk(to, address, data))
            case Knock():
                self._spawn(self._knock(effect))
            case Persist():
                self._writer.put(effect)
            case Sample():
                self._spawn(self._sample(effect))
            case Estimate():
                self._spawn(self._estimate(effect))
            case RequestPlan():
                self._spawn(self._plan(effect))
            case RunStep():
                self._spawn(self._run_step(effect))
            case Notify():
                self._say(effect)

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._break(task.exception())

    def _break(self, error: BaseException | None) -> None:
        self._broken = self._broken or error
        self._serving = False
        self._stopping.set()

    async def _knock(self, effect: Knock) -> None:
        self._mesh_event(Knocked(effect.token, await knock(effect.node, effect.address, effect.wait_ms / 1000)))

    def _port_refused(self, address: Address) -> None:
        self._mesh_event(PortRefused(address))

    def _send_failed(self) -> None:
        # Called while an effect is carried out: the core hears it afterwards.
        asyncio.get_running_loop().call_soon(self._mesh_event, SendFailed())

    def _mesh_event(self, event: MeshEvent) -> None:
        self._do(lambda now: self._node.handle_event(event, now))

    async def _send_bulk(self, to: bytes, address: Address, data: bytes) -> None:
        await self._client.post_bulk(to, address, data)

    async def _sample(self, effect: Sample) -> None:
        try:
            async with asyncio.timeout(SAMPLE_TIMEOUT_S):
                if (hanging := self._reading.get(effect.path)) is not None:
                    await asyncio.wait({hanging})  # however often it is asked for, it holds one thread
                reading = self._reading[effect.path] = in_thread(lambda: read_file_system(effect.path))
                self._answer(Sampled(effect.token, await asyncio.shield(reading)))
        except OSError as error:  # a time-out is one
            self._answer(Sampled(effect.token, None, error.strerror or "no answer in time"))

    async def _estimate(self, effect: Estimate) -> None:
        now_ns = time.time_ns()
        measured = await in_thread(lambda: tuple(self._executor.measure(step, now_ns) for step in effect.steps))
        self._answer(Estimated(effect.token, measured))

    async def _plan(self, effect: RequestPlan) -> None:
        if self._planner is None:
            self._answer(PlanFailed(effect.token, "this host has no model"))
            return
        try:
            self._answer(PlanReady(effect.token, await self._planner.rank(effect.request)))
        except PlannerFailed as error:
            self._answer(PlanFailed(effect.token, error.reason))

    async def _run_step(self, effect: RunStep) -> None:
        self._answer(await self._guard.run(effect))

    def _answer(self, answer: Answer) -> None:
        self._do(lambda now: self._node.handle_event(answer, now))

    def _persisted(self, token: int) -> None:
        self._do(lambda now: self._node.handle_event(Persisted(token), now))

    def _write_failed(self, error: Exception, waiting: int) -> None:
        self._effect(Notify("state", "", f"the state database cannot be written, {waiting} changes wait: {error}"))

    # -- commands and the end ------------------------------------------------------------------------------------------

    async def _command(self, line: str) -> dict[str, Any]:
        word, _, argument = line.partition(" ")
        match word:
            case "roster":
                return await self._standing.take_offered()
            case "revoke":
                return self._standing.revoke(bytes.fromhex(argument))
            case "status":
                return self._status()
            case "leave":
                self._left = True
                self._do(lambda now: self._node.command(self._node.mesh.leave, now))
                asyncio.get_running_loop().call_later(GOODBYE_S, self._stopping.set)
                return {"left": True}
            case "forget":
                return self._forget(bytes.fromhex(argument))
            case "note":
                return self._note(argument)
            case _:
                return {"error": f"unknown command {word!r}"}

    def _forget(self, claim: bytes) -> dict[str, Any]:
        try:
            self._node.command(lambda: self._node.mesh.forget(claim, read_clock()), read_clock())
        except RemoteProtocolError as error:
            return {"error": error.reason}
        self._carry_out()
        return {"forgotten": True}

    def _note(self, text: str) -> dict[str, Any]:
        if not 0 < len(text.encode()) <= NOTE_BYTES or not text.isprintable():
            return {"error": f"a note is one line of 1 to {NOTE_BYTES} bytes"}
        self._do(lambda now: self._node.command(lambda: self._node.agent.note(text, now), now))
        return {"noted": text}

    def _status(self) -> dict[str, Any]:
        mesh = self._node.mesh
        dropped = {**mesh.dropped, **self._server.dropped, **self._udp.dropped, **self._udp.errors, **self._client.errors}
        return (
            status_of(self._member)
            | self._standing.status()
            | {
                "address": address_text(self._reachable()),
                "bound": address_text(self._bound),
                "members": len(mesh.present()) + 1,
                "mode": self._config.mode.reversible,
                "model": self._model.name if self._model is not None else None,
                "model_loads": self._planner.loads if self._planner is not None else 0,
                "model_loaded": self._planner is not None and self._planner.loaded,
                "incarnation": mesh.incarnation,
                "cloned": mesh.cloned,
                "dropped": dropped,
                "state_bytes": self._store.state_bytes(),
                "running": True,
                "up_s": (time.time_ns() - self._started_ns) // NS_PER_S,
            }
        )

    async def _wind_down(self) -> None:
        """Take nothing in any more, and let what is under way end."""
        if not self._left:
            # The host stays up: peers need not suspect anything.
            self._do(lambda now: self._node.command(self._node.mesh.restart, now))
        self._serving = False
        if self._timer is not None:
            self._timer.cancel()
        await self._guard.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def status_of(member: Membership) -> dict[str, Any]:
    """What the state folder alone knows of the node."""
    return {
        "id": node_text(member.identity.id),
        "name": member.name,
        "mesh_id": mesh_text(member.mesh_id),
        "epoch": member.roster.epoch,
        "voters": [node_text(voter) for voter in member.roster.voters],
        "lease": None,
        "paused": False,
    }


def own_addresses(bound: str) -> list[str]:
    """IP addresses at which this host can be reached when it listens on ``bound``; never empty."""
    listens = ipaddress.ip_address(bound)
    if not listens.is_unspecified:
        return [bound]
    # IPv4 first: a socket on :: takes both, a peer's on 0.0.0.0 only that. Link-local addresses mean nothing elsewhere.
    families = ("AF_INET",) if listens.version == 4 else ("AF_INET", "AF_INET6")
    given = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    for family in families:
        found = (address.address for address in given if address.family.name == family)
        if outside := sorted(host for host in found if reachable((host, 1)) and not ipaddress.ip_address(host).is_loopback):
            return outside
    return ["127.0.0.1" if listens.version == 4 else "::1"]


async def _resolved(seeds: tuple[Address, ...]) -> tuple[Address, ...]:
    """Seeds as IP addresses; a name that does not resolve now is left out."""
    found: list[Address] = []
    for host, port in seeds:
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, port)
        except OSError:
            continue
        found.append((str(infos[0][4][0]), port))
    return tuple(found)
