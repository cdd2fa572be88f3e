"""Real agents on the stage, and what they are made to live through: a helper killed after the grant, a holder that cheats."""

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense.agent.entries import Help, Offer, StepReply, StepRequest, decode_direct
from cloudisense.agent.ledger import parse_body
from cloudisense.agent.plan import Plan
from cloudisense.clock import read_clock
from cloudisense.demo.stage import Stage, namespace_command
from cloudisense.home import Home
from cloudisense.joining import join
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import node_text
from cloudisense.keys.invite import make_invite
from cloudisense.keys.tls import private_pem
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Persist, Send, SendBulk
from cloudisense.mesh.events import DirectReceived, EntryArrived, Persisted
from cloudisense.mesh.instant import NS_PER_S
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.stored import Stored
from cloudisense.net.streams import StreamServer, TlsOwn
from cloudisense.net.udp import UdpEndpoint
from cloudisense.store import Store

MEMORY_ONLY = ("memory",)
FILL_PERCENT = 95.0


@pytest.fixture(scope="module", autouse=True)
def allowed() -> None:
    """Skip where this host gives nobody a file system of his own."""
    try:
        namespace_command()
    except ValueError as error:
        pytest.skip(str(error))


class Played:
    """What all agents said, as it comes in; ``react`` is called at once."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.react: Callable[[str, dict[str, Any]], None] = lambda who, event: None

    def __call__(self, who: str, event: dict[str, Any]) -> None:
        self.events.append((who, event))
        self.react(who, event)

    def of(self, who: str, topic: str) -> list[dict[str, Any]]:
        return [event for name, event in self.events if (name, event["topic"]) == (who, topic)]

    async def wait(self, who: str, topic: str, seconds: float = 25.0) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while not (found := self.of(who, topic)):
            assert time.monotonic() < deadline, f"{who} never said {topic!r}: {self.events}"
            await asyncio.sleep(0.02)
        return found[0]


async def written(stage: Stage, ended: dict[str, Any]) -> dict[str, Any]:
    """The incident in A's store, once its end is there: what is said can be heard before what is written can be read."""
    deadline = time.monotonic() + 5
    while not (row := stage.incident(ended["incident"])).get("closed_ms"):
        assert time.monotonic() < deadline, row
        await asyncio.sleep(0.02)
    return row


async def test_a_helper_killed_after_the_grant_costs_time_and_nothing_else() -> None:
    played = Played()
    async with Stage({"a": MEMORY_ONLY, "b": ("rules",), "c": MEMORY_ONLY}, "cache", None, played) as stage:
        helper = stage.actors["b"].process
        assert helper is not None
        ids = {name: (await stage.status(name))["id"] for name in stage.actors}

        def strike(who: str, event: dict[str, Any]) -> None:
            # Stopped with its offer out, so that it cannot act; killed once it is granted what it can no longer use.
            if (who, event["topic"]) == ("a", "offer"):
                helper.send_signal(signal.SIGSTOP)
            elif (who, event["topic"]) == ("a", "granted") and event["holder"] == "b":
                helper.kill()

        played.react = strike
        await stage.fill(FILL_PERCENT)
        row = await written(stage, await played.wait("a", "resolved"))
        assert helper.returncode == -signal.SIGKILL
        assert (row["state"], row["planned_by"], row["acted_by"], row["authorised_by"]) == ("resolved", ids["b"], ids["a"], ids["a"])
        assert [event["holder"] for event in played.of("a", "granted")] == ["b", "a"]
        assert played.of("a", "lapsed")[0]["holder"] == "b"
        assert stage.used() < 80 and stage.canaries_intact()
        assert len(played.of("a", "intent")) == 1, "no step ran twice"
        await played.wait("c", "resolved")


class Cheat:
    """A member that offers the first candidate, and asks the gate for another plan than the one it was granted.

    The mesh is the real one; the agent on top is not ours.
    """

    def __init__(self, home: Home, alter: Callable[[bytes], bytes]) -> None:
        self.member = home.load()
        self.replies: list[StepReply] = []
        self._home, self._alter = home, alter
        self._plans: dict[bytes, Plan] = {}
        self._honest = False
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.asynccontextmanager
    async def taking_part(self) -> AsyncIterator["Cheat"]:
        member = self.member
        server = StreamServer(
            TlsOwn(member.leaf, private_pem(member.identity)),
            [issuer.anchor for issuer in member.roster.issuers],
            admit=lambda node: True,
            on_bulk=self._bulk,
            on_join=self._no_joins,
            roster_chain=lambda: member.chain,
        )
        await server.start("127.0.0.1", 0)
        self._udp = await UdpEndpoint.open("127.0.0.1", server.port, self._datagram)
        stored = Stored(member.name, ("127.0.0.1", self._udp.port), 1, 1, (), (), member.seeds)
        self._mesh = Mesh(member.identity, member.certificate, member.chain, Limits(), random.SystemRandom(), stored)
        self._mesh.start(read_clock())
        self._turn()
        try:
            yield self
        finally:
            if self._timer is not None:
                self._timer.cancel()
            self._udp.close()
            await server.close()

    async def _no_joins(self, body: bytes, source: str) -> bytes:
        raise RemoteProtocolError("not here")

    def _bulk(self, peer: bytes, data: bytes) -> None:
        self._mesh.handle_bulk(peer, data, read_clock())
        self._turn()

    def _datagram(self, data: bytes, source: Address) -> None:
        self._mesh.handle_datagram(data, source, read_clock())
        self._turn()

    def _wake(self) -> None:
        self._mesh.handle_timer(read_clock())
        self._turn()

    def _turn(self) -> None:
        busy = True
        while busy:
            busy = False
            for news in self._mesh.poll_news():
                busy = True
                if isinstance(news, EntryArrived):
                    self._read(parse_body(news.entry))
                elif isinstance(news, DirectReceived) and isinstance(reply := decode_direct(news.body), StepReply):
                    self.replies.append(reply)
            for effect in self._mesh.poll_effects():
                busy = True
                if isinstance(effect, Send):
                    self._udp.send(effect.address, effect.data)
                elif isinstance(effect, Persist):
                    self._mesh.handle_event(Persisted(effect.token), read_clock())
                else:
                    assert isinstance(effect, SendBulk)
        if self._timer is not None:
            self._timer.cancel()
        if (deadline := self._mesh.next_deadline()) is not None:
            wait_s = max(0.0, (deadline - read_clock().boot_ns) / NS_PER_S)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._wake)

    def _read(self, body: object) -> None:
        if isinstance(body, Help) and body.candidates:
            candidate = body.candidates[0]
            subject = next(node for node in self._mesh.members if self._mesh.members[node].alive.name == "a")
            plan = Plan(subject, body.incident, candidate.steps, candidate.signature, "trust me")
            self._plans[plan.hash] = plan
            self._mesh.append("offer", pack(Offer(body.incident, body.round, plan, "rules", "", 0.9, 0, 0)), read_clock())
        elif isinstance(body, Capability) and body.holder == self.member.identity.id:
            plan = pack(self._plans[body.plan_hash])
            if not self._honest:
                plan, self._honest = self._alter(plan), True
            self._mesh.send_direct(body.gate, pack(StepRequest(body.incident, body.nonce, 0, plan)))


def one_byte(plan: bytes) -> bytes:
    """Another age limit: ``1h`` becomes ``1d`` or the like, by one bit of one byte."""
    at = plan.index(b"\xa3age") + 5
    return plan[:at] + bytes([plan[at] ^ 2]) + plan[at + 1 :]


async def test_a_holder_that_alters_its_plan_by_one_byte_gets_nothing(tmp_path: Path) -> None:
    played = Played()
    async with Stage(dict.fromkeys("abc", MEMORY_ONLY), "temp", None, played) as stage:
        a = stage.actors["a"]
        subject = a.home.load()
        address = ("127.0.0.1", a.port)
        expires_ms = read_clock().wall_ms + 60_000
        token, record = make_invite(
            random.SystemRandom(), subject.mesh_id, subject.identity.id, (address,), ("member", "actor"), 1, expires_ms
        )
        store = Store(a.home.database)
        store.put_invite(record)
        store.close()
        home = Home(tmp_path / "d")
        home.lock()
        await join(home, token, "d", (), "")
        home.unlock()
        cheat = Cheat(home, one_byte)
        async with cheat.taking_part():
            await stage.until(lambda: "d" in a.known, 10.0, "the cheat is not known")
            files: list[int] = []

            def count(who: str, event: dict[str, Any]) -> None:
                if (who, event["topic"]) == ("a", "outcome"):
                    files.append(len(list((stage.volume / "scratch").iterdir())))

            played.react = count
            await stage.fill(FILL_PERCENT)
            before = len(list((stage.volume / "scratch").iterdir()))
            ended = await played.wait("a", "resolved")
            outcomes = played.of("a", "outcome")
            assert [event["verdict"] for event in outcomes] == ["refused", "done"]
            assert "authorised" in outcomes[0]["text"] or "malformed" in outcomes[0]["text"]
            assert files[0] == before, "nothing was deleted"
            row = await written(stage, ended)
            assert row["state"] == "resolved" and "refused" in row["failed_plans"] and stage.canaries_intact()
            assert row["plan"] not in row["failed_plans"], "it was healed in another way"
            assert row["planned_by"] == node_text(cheat.member.identity.id)
            assert [reply.verdict for reply in cheat.replies] == ["refused", "done"]
            recorded = Store.open_readonly(stage.actors["c"].home.database)
            kinds = [parse for parse in (bytes(row["data"]) for row in recorded.rows("entries")) if b"refused" in parse]
            recorded.close()
            assert kinds, "the refusal is in A's feed, as C holds it"


async def test_what_an_agent_knew_it_knows_after_a_restart(command: Callable[..., Any], start: Callable[..., Any]) -> None:
    played = Played()
    async with Stage(dict.fromkeys("abc", ("memory", "rules")), "cache", None, played) as stage:
        await stage.fill(FILL_PERCENT)
        ended = await played.wait("a", "resolved")
        await played.wait("c", "resolved")
        state, process = stage.actors["c"].home.path, stage.actors["c"].process
        assert process is not None
        questions = (("incidents",), ("incidents", ended["incident"]), ("history",), ("members",))

        def known() -> list[Any]:
            found = [command(*words, "--state", state, "--json").json for words in questions]
            return [*found[:3], [(row["name"], row["id"], row["roles"]) for row in found[3]]]

        before = await asyncio.to_thread(known)
        async with asyncio.timeout(20):
            while not all("voter" in roles for *_, roles in before[3]):  # B and C become voters by themselves
                await asyncio.sleep(0.2)
                before = await asyncio.to_thread(known)
        (incident,), one, (line,), rows = before
        assert incident == one and incident["state"] == "resolved" and incident["findings"] and incident["verdict"]
        wanted = "id subject kind state opened_ms closed_ms planned_by acted_by planner plan reasoning verdict escalated_to findings"
        assert set(wanted.split()) <= incident.keys()
        assert {"incident", "fingerprint", "action", "outcome", "ms_to_heal", "node", "at"} <= line.keys()
        assert (line["incident"], line["action"], line["outcome"]) == (incident["id"], "clean_cache", "resolved")
        assert [name for name, _, _ in rows] == ["a", "b", "c"]

        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0 and time.monotonic() - began < 3
        assert await asyncio.to_thread(known) == before, "without an agent"
        again = await asyncio.to_thread(start, state)
        assert await asyncio.to_thread(known) == before, "with a new one"
        assert await asyncio.to_thread(again.stop) and again.errors == ""
        for words in (("incidents",), ("history",), ("members",)):
            done = await asyncio.to_thread(command, *words, "--state", state)
            assert done.code == 0 and max(map(len, done.out.splitlines())) <= 80, done.out
