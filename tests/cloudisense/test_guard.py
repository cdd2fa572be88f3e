"""The guard of a host: what it runs, when it writes that down, and what it never runs."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudisense import guard as guard_module
from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.effects import RunStep
from cloudisense.agent.plan import Plan, Step
from cloudisense.clock import read_clock
from cloudisense.guard import Guard
from cloudisense.host.catalogue import builtin_actions, declare
from cloudisense.host.executor import Executor, StepFailed
from cloudisense.host.outcome import Outcome
from cloudisense.keys.capability import Capability
from cloudisense.keys.encoding import pack
from cloudisense.keys.identity import Identity
from cloudisense.mesh.feed import Feeds
from cloudisense.mesh.limits import Limits
from cloudisense.store import Store, StoreError

MESH_ID = b"m" * 32
BOOT = b"b" * 16
HOLDER = b"h" * 32
MODE = {"observe": "act", "reversible": "act"}


class Host:
    """A host with one full cache, and a grantor that allows what it is asked."""

    def __init__(self, base: Path) -> None:
        self.cache = Path(os.path.realpath(base)) / "cache"
        self.cache.mkdir()
        for i in range(3):
            (self.cache / f"{i}.bin").write_bytes(b"x" * 5000)
            os.utime(self.cache / f"{i}.bin", (0, 0))
        self.identity = Identity(b"i" * 32)
        self.catalogue = Catalogue(builtin_actions(), declare([(str(self.cache), "cache")]))
        self.step = self.catalogue.steps_for("disk_full", self.catalogue.paths[str(self.cache)].mount)[0]
        self.store = Store(base / "state.db")
        self._feeds = Feeds(MESH_ID, Limits())
        self._nonces = 0

    def guard(self, boot: bytes = BOOT) -> Guard:
        return Guard(self.identity.id, MESH_ID, boot, self.catalogue, MODE, self.store)

    def request(self, *steps: Step, index: int = 0, requester: bytes = HOLDER) -> RunStep:
        """A step of a plan that was granted to ``HOLDER`` a moment ago."""
        self._nonces += 1
        now = read_clock()
        plan = Plan(self.identity.id, "incident", steps or (self.step,), "SIGNATURE", "because")
        nonce = self._nonces.to_bytes(16, "big")
        granted = Capability(
            nonce, "incident", plan.hash, HOLDER, self.identity.id, BOOT, len(plan.steps), now.boot_ns // 1_000_000, 60_000
        )
        entry = self._feeds.append(self.identity, 1, now.wall_ms, "capability", pack(granted))
        return RunStep(self._nonces, requester, entry.data, pack(plan), index)

    def journal(self) -> list[str]:
        return [f"{row['phase']} {row['detail']}" for row in self.store.rows("journal", order_by=["nonce", "at_ms", "phase"])]

    def files(self) -> int:
        return len(list(self.cache.iterdir()))


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.store.close()


async def test_intent_before_and_outcome_after(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[str], int]] = []
    run = Executor.run

    def watched(executor: Executor, step: Step, wall_ns: int) -> Outcome:
        other = Store.open_readonly(host.store.path)
        seen.append(([row["phase"] for row in other.rows("journal")], len(other.rows("spent"))))
        other.close()
        return run(executor, step, wall_ns)

    monkeypatch.setattr(Executor, "run", watched)
    done = await host.guard().run(host.request())
    assert (done.verdict, done.files, done.freed_bytes >= 15_000) == ("done", 3, True)
    assert seen == [(["intent"], 1)], "what another process could read before the first file went"
    assert host.files() == 0
    assert host.journal() == ["intent clean_cache", f"outcome done: {done.detail}"]


async def test_once_only_and_across_restarts(host: Host) -> None:
    guard, request = host.guard(), host.request()
    first, second = await asyncio.gather(guard.run(request), guard.run(request))
    assert (first.verdict, second.verdict) == ("done", "refused")
    (host.cache / "new.bin").write_bytes(b"x" * 5000)
    again = await host.guard().run(request)
    assert (again.verdict, again.detail) == ("refused", "this step has been used")
    assert host.files() == 1


async def test_a_plan_altered_by_one_byte_never_runs(host: Host) -> None:
    guard, request = host.guard(), host.request()
    for at in range(request.plan.index(b"SIGNATURE") - 1):  # the words behind it are not hashed: they change nothing that happens
        altered = bytearray(request.plan)
        altered[at] ^= 1
        done = await guard.run(RunStep(1, HOLDER, request.capability, bytes(altered), 0))
        assert done.verdict == "refused" and host.files() == 3 and host.journal() == [], at
    assert (await guard.run(request)).verdict == "done", "the attempts spent nothing"


@pytest.mark.parametrize("wrong", ["requester", "boot", "gate", "index", "signature", "kind", "empty"])
async def test_nothing_else_runs_either(host: Host, wrong: str) -> None:
    guard, request = host.guard(b"c" * 16 if wrong == "boot" else BOOT), host.request()
    capability, requester, index = request.capability, HOLDER, 0
    if wrong == "requester":
        requester = b"r" * 32
    elif wrong == "gate":
        guard = Guard(HOLDER, MESH_ID, BOOT, host.catalogue, MODE, host.store)
    elif wrong == "index":
        index = -1
    elif wrong == "signature":
        capability = capability[:-1] + bytes([capability[-1] ^ 1])
    elif wrong == "kind":
        feeds = Feeds(MESH_ID, Limits())
        capability = feeds.append(host.identity, 1, 0, "offer", pack([1])).data
    elif wrong == "empty":
        capability = b""
    done = await guard.run(RunStep(1, requester, capability, request.plan, index))
    assert done.verdict == "refused" and done.detail
    assert host.files() == 3 and host.journal() == [] and host.store.rows("spent") == []


async def test_a_journal_that_cannot_be_written_stops_the_step(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(puts: object) -> None:
        raise StoreError("disk I/O error")

    guard = host.guard()
    monkeypatch.setattr(host.store, "write", full)
    done = await guard.run(host.request())
    assert (done.verdict, done.detail) == ("failed", "the journal cannot be written: disk I/O error")
    assert host.files() == 3


async def test_a_step_that_fails_says_how_far_it_came(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(executor: Executor, step: Step, wall_ns: int) -> Outcome:
        raise StepFailed("y" * 5000, 5000, 1)

    monkeypatch.setattr(Executor, "run", fails)
    done = await host.guard().run(host.request())
    assert (done.verdict, done.freed_bytes, done.files, len(done.detail)) == ("failed", 5000, 1, 200)
    assert host.journal()[-1].startswith("outcome failed: yyy")


async def test_one_step_at_a_time_and_the_loop_stays_free(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0

    def slow(executor: Executor, step: Step, wall_ns: int) -> Outcome:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.05)
        running -= 1
        return Outcome(0, 0, "")

    monkeypatch.setattr(Executor, "run", slow)
    guard = host.guard()
    work = [asyncio.create_task(guard.run(host.request())) for _ in range(4)]
    ticks = 0
    while not all(task.done() for task in work):
        await asyncio.sleep(0.005)
        ticks += 1
    assert most == 1 and ticks > 10
    assert {task.result().verdict for task in work} == {"done"}


async def test_the_end_waits_for_a_step_and_begins_none(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    began = threading.Event()

    def slow(executor: Executor, step: Step, wall_ns: int) -> Outcome:
        began.set()
        time.sleep(0.2)
        return Outcome(0, 0, "it ended")

    monkeypatch.setattr(Executor, "run", slow)
    guard = host.guard()
    task = asyncio.create_task(guard.run(host.request()))
    while not began.is_set():
        await asyncio.sleep(0.005)
    await guard.close()
    assert host.journal() == ["intent clean_cache", "outcome done: it ended"]
    assert (await task).verdict == "done"
    assert (await guard.run(host.request())).detail == "this host is paused"


async def test_the_end_does_not_wait_for_ever(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hangs(executor: Executor, step: Step, wall_ns: int) -> Outcome:
        release.wait(10)
        return Outcome(0, 0, "")

    monkeypatch.setattr(Executor, "run", hangs)
    monkeypatch.setattr(guard_module, "END_S", 0.1)
    guard = host.guard()
    task = asyncio.create_task(guard.run(host.request()))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(1):
        await guard.close()
    task.cancel()
    assert host.journal() == ["intent clean_cache"]
    release.set()
    await asyncio.wait({task})
    await asyncio.sleep(0.05)
