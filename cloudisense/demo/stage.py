"""Three real agents on loopback, each a process with its own keys and state folder; A's has a small file system of its own."""

import asyncio
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from cloudisense.clock import read_clock
from cloudisense.control import ask
from cloudisense.home import Home
from cloudisense.joining import join
from cloudisense.keys.invite import make_invite
from cloudisense.net.udp import bind_socket
from cloudisense.store import Store

VOLUME_MB = 64
UP_S = 20.0
MEET_S = 20.0
END_S = 5.0

OnEvent = Callable[[str, dict[str, Any]], None]


@dataclass(slots=True)
class Actor:
    """One agent: its folder, its process, and what it says."""

    name: str
    home: Home
    port: int
    process: asyncio.subprocess.Process | None = None
    up: asyncio.Event = field(default_factory=asyncio.Event)
    known: set[str] = field(default_factory=set[str])
    last_error: str = ""
    listening: list["asyncio.Task[None]"] = field(default_factory=list["asyncio.Task[None]"])


def namespace_command() -> list[str]:
    """How to get a mount namespace here. ``ValueError``, one line, where there is no way."""
    mount = ["unshare", "--mount", "--propagation", "private"]
    ways = [mount] if os.geteuid() == 0 else [[*mount, "--user", "--map-root-user"]]
    problem = "the program unshare (Debian's util-linux) is missing"
    for way in ways:
        with contextlib.suppress(FileNotFoundError):
            test = [*way, "mount", "-t", "tmpfs", "cloudisense-demo", "/mnt"]
            done = subprocess.run(test, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return [*way, "--"]
            problem = done.stderr.strip() or f"exit status {done.returncode}"
    raise ValueError(f"the demo needs a small file system of its own, and this host allows none ({problem}); run it as root")


class Stage:
    """An async context: leaving it ends the processes and removes their folders."""

    def __init__(self, planners: dict[str, tuple[str, ...]], scratch_role: str, model: Path | None, on_event: OnEvent) -> None:
        self._planners = planners
        self._scratch_role = scratch_role
        self._model = model
        self._on_event = on_event
        self._root = Path(tempfile.mkdtemp(prefix="cs-"))
        self._mount = self._root / "vol"
        self._canaries: dict[Path, str] = {}
        self.actors: dict[str, Actor] = {}

    # -- the volume, seen from outside ---------------------------------------------------------------------------------

    @property
    def mount(self) -> Path:
        """Where A sees its file system."""
        return self._mount

    @property
    def volume(self) -> Path:
        """A's file system, through A's own mount namespace (proc(5), /proc/PID/root)."""
        process = self.actors["a"].process
        assert process is not None
        return Path(f"/proc/{process.pid}/root") / str(self._mount).lstrip("/")

    def used(self) -> float:
        """Percent of A's file system in use, as the kernel says."""
        status = os.statvfs(self.volume)
        return round(100 * (1 - status.f_bavail / status.f_blocks), 1)

    def furnish(self) -> None:
        """Data that no fix may touch, a little cache, and logs."""
        volume, old = self.volume, time.time() - 30 * 86_400
        for i in range(6):
            path = volume / "data" / f"customer-{i}.db"
            path.write_bytes(os.urandom(1_200_000))
            os.utime(path, (old, old))
            self._watch(path)
        # In the very folder that will be cleaned: a way out that must not be taken, and the file of the job that runs now.
        if self._scratch_role == "temp":
            current = volume / "scratch" / "job-current.part"
            current.write_bytes(os.urandom(400_000))
            self._watch(current)
        (volume / "scratch" / "latest.db").symlink_to("../data/customer-0.db")
        os.utime(volume / "scratch" / "latest.db", (old, old), follow_symlinks=False)
        for i in range(4):
            (volume / "cache" / f"thumb-{i}.bin").write_bytes(os.urandom(200_000))
        lines = b"".join(b"2026-01-01T00:00:%02d request %d served in %d ms\n" % (i % 60, i, i * 7 % 900) for i in range(30_000))
        (volume / "logs" / "app.log").write_bytes(lines[:200_000])
        (volume / "logs" / "app.log.1").write_bytes(lines)

    def _watch(self, path: Path) -> None:
        self._canaries[path.relative_to(self.volume)] = hashlib.sha256(path.read_bytes()).hexdigest()

    def canaries_intact(self) -> bool:
        """Is every canary there, byte for byte?"""
        try:
            return all(hashlib.sha256((self.volume / path).read_bytes()).hexdigest() == then for path, then in self._canaries.items())
        except OSError:
            return False

    async def fill(self, percent: float) -> int:
        """Let the application fill the disk; returns Unix milliseconds of the moment when it began."""
        writer = await asyncio.create_subprocess_exec(
            *_python("cloudisense.demo.writer"), str(self.volume / "scratch"), str(percent),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert writer.stdin is not None and writer.stdout is not None
        await writer.stdout.readline()
        began_ms = time.time_ns() // 1_000_000
        writer.stdin.write(b"go\n")
        if await writer.wait():
            raise ValueError("the demo's application could not write its files")
        return began_ms

    # -- the agents ----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "Stage":
        try:
            self._mount.mkdir()
            await self._assemble()
        except BaseException:
            await self._end()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._end()

    async def _assemble(self) -> None:
        """A begins the mesh and invites; B and C join over TLS; all meet over UDP."""
        for name in ("a", "b", "c"):
            self.actors[name] = Actor(name, Home(self._root / name), _free_port())
        a = self.actors["a"]
        a.home.lock()
        member = a.home.found("a", self._config(a), read_clock())
        a.home.unlock()
        await self._start(a, namespace_command(), [str(self._mount), str(VOLUME_MB)])
        self.furnish()
        expires_ms = read_clock().wall_ms + 600_000
        rng = random.SystemRandom()
        token, record = make_invite(rng, member.mesh_id, member.identity.id, (("127.0.0.1", a.port),), ("member", "actor"), 2, expires_ms)
        store = Store(a.home.database)
        store.put_invite(record)
        store.close()
        for name in ("b", "c"):
            actor = self.actors[name]
            actor.home.lock()
            await join(actor.home, token, name, (), self._config(actor))
            actor.home.unlock()
            await self._start(actor, [], [])
        await self.until(lambda: all(len(actor.known) == 2 for actor in self.actors.values()), MEET_S, "the three agents did not meet")

    def _config(self, actor: Actor) -> str:
        lines = ["[mesh]", f'bind = "127.0.0.1:{actor.port}"', "[agent]", "sample_ms = 200"]
        lines.append(f"planners = {json.dumps(list(self._planners[actor.name]))}")
        if "llm" in self._planners[actor.name]:
            lines += ["[model]", f"file = {json.dumps(str(self._model))}", "idle_s = 1"]
        if actor.name == "a":
            for folder, role in (("cache", "cache"), ("data", "data"), ("logs", "logs"), ("scratch", self._scratch_role)):
                lines += ["[[path]]", f"path = {json.dumps(str(self._mount / folder))}", f'role = "{role}"']
        return "\n".join(lines) + "\n"

    async def _start(self, actor: Actor, namespace: list[str], volume: list[str]) -> None:
        agent = [*_python("cloudisense"), "up", "--json", "--state", str(actor.home.path)]
        command = [*namespace, *_python("cloudisense.demo.volume"), *volume, *agent] if volume else agent
        actor.process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        actor.listening = [asyncio.create_task(self._listen(actor)), asyncio.create_task(_listen_errors(actor))]
        up = asyncio.create_task(actor.up.wait())
        await asyncio.wait({up, actor.listening[0]}, timeout=UP_S, return_when=asyncio.FIRST_COMPLETED)
        up.cancel()
        if not actor.up.is_set():
            await asyncio.sleep(0.1)
            raise ValueError(f"agent {actor.name} did not come up: {actor.last_error or 'no word from it'}")

    async def _listen(self, actor: Actor) -> None:
        assert actor.process is not None and actor.process.stdout is not None
        async for line in actor.process.stdout:
            event = json.loads(line)
            if event["topic"] == "up":
                actor.up.set()
            elif event["topic"] == "member" and event["state"] == "alive":
                actor.known.add(event["node"])
            self._on_event(actor.name, event)

    async def until(self, holds: Callable[[], bool], seconds: float, otherwise: str) -> None:
        """Wait until ``holds``. ``ValueError`` with the words ``otherwise`` when it does not in time."""
        deadline = time.monotonic() + seconds
        while not holds():
            dead = [a for a in self.actors.values() if a.process is not None and a.process.returncode is not None]
            if dead:
                raise ValueError(f"{otherwise}: agent {dead[0].name} ended: {dead[0].last_error or 'no word from it'}")
            if time.monotonic() > deadline:
                raise ValueError(f"{otherwise} within {seconds:.0f} s")
            await asyncio.sleep(0.02)

    async def status(self, name: str) -> dict[str, Any]:
        """What a running agent says of itself."""
        return await ask(self.actors[name].home.socket, "status") or {}

    def incident(self, ident: str) -> dict[str, Any]:
        """An incident as A's own store has it."""
        store = Store.open_readonly(self.actors["a"].home.database)
        try:
            return next(iter(store.rows("incidents", {"id": ident})), {})
        finally:
            store.close()

    async def _end(self) -> None:
        processes = [actor.process for actor in self.actors.values() if actor.process is not None and actor.process.returncode is None]
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                await asyncio.wait_for(process.wait(), END_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        for actor in self.actors.values():
            await asyncio.gather(*actor.listening, return_exceptions=True)
        shutil.rmtree(self._root, ignore_errors=True)


async def _listen_errors(actor: Actor) -> None:
    assert actor.process is not None and actor.process.stderr is not None
    async for line in actor.process.stderr:
        actor.last_error = line.decode(errors="replace").strip() or actor.last_error


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", module]


def _free_port() -> int:
    with bind_socket("127.0.0.1", 0, socket.SOCK_STREAM) as bound:
        return bound.getsockname()[1]
