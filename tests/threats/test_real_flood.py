"""A real agent on the loopback, flooded for some seconds by a socket, while an honest member probes it."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cloudisense.clock import read_clock
from cloudisense.home import Home, Membership
from cloudisense.keys.envelope import seal
from cloudisense.keys.identity import Identity
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.effects import Address, Persist, Send
from cloudisense.mesh.events import Persisted
from cloudisense.mesh.hello import PREFIX, Hello
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.limits import Limits
from cloudisense.mesh.stored import Stored
from cloudisense.mesh.wire import Ack, Claims, Ping, PushPull, encode
from cloudisense.net.udp import UdpEndpoint

SECONDS = 4.0
PER_SECOND = 1000
"""Datagrams, of each flood. Beyond what the CPU reads, the kernel drops honest ones, too, and no code of ours can help."""
RSS_GROWTH = 24 << 20


class Honest:
    """A member with a real socket: a mesh core, and pings of our own that we count."""

    def __init__(self, member: Membership, seed: Address) -> None:
        self.member, self.seed = member, seed
        self.acks: set[int] = set()

    async def start(self) -> "Honest":
        self.udp = await UdpEndpoint.open("127.0.0.1", 0, self._datagram)
        stored = Stored(self.member.name, ("127.0.0.1", self.udp.port), 1, 1, seeds=(self.seed,))
        rng = random.SystemRandom()
        self.mesh = Mesh(self.member.identity, self.member.certificate, self.member.chain, Limits(), rng, stored)
        handler = self.mesh._handlers[Ack]

        def counted(peer: bytes, message: Ack, now: Instant) -> object:
            self.acks.add(message.sequence)
            return handler(peer, message, now)

        self.mesh._handlers[Ack] = counted
        self.mesh.start(read_clock())
        self.task = asyncio.create_task(self._timers())
        self.carry_out()
        return self

    async def _timers(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self.mesh.handle_timer(read_clock())
            self.carry_out()

    def _datagram(self, data: bytes, source: Address) -> None:
        self.mesh.handle_datagram(data, source, read_clock())
        self.carry_out()

    def carry_out(self) -> None:
        self.mesh.poll_news()
        for effect in self.mesh.poll_effects():
            if isinstance(effect, Send):
                self.udp.send(effect.address, effect.data)
            elif isinstance(effect, Persist):
                self.mesh.handle_event(Persisted(effect.token), read_clock())

    async def close(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task
        self.udp.close()


async def cli(*words: str) -> str:
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cloudisense", *words, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def hello_flood(to: bytes, mesh_id: bytes) -> Callable[[int], bytes]:
    stranger = Identity(b"x" * 32)
    claim = seal(stranger, "alive", mesh_id, b"x" * 150)

    def datagram(i: int) -> bytes:
        body = Hello(claim, b"c" * 200, to, i.to_bytes(16, "big"), i.to_bytes(16, "big") if i % 2 else b"")
        from cloudisense.keys.encoding import pack

        return PREFIX + seal(stranger, "hello", mesh_id, pack(body))

    return datagram


@pytest.mark.timeout(120)
async def test_honest_probes_are_answered(tmp_path: Path) -> None:
    """Controls: all bounds before and after authentication, at work together in the real process."""
    state = tmp_path / "a"
    await cli("init", "--state", str(state), "--name", "a", "--bind", "127.0.0.1:0")
    words = (sys.executable, "-m", "cloudisense", "up", "--state", str(state), "--json")
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE, env=environment)
    assert process.stdout is not None
    first = json.loads(await process.stdout.readline())
    drain = asyncio.create_task(process.stdout.read())
    host, _, port = first["text"].rpartition(":")
    address = (host, int(port))
    nodes: list[Honest] = []
    try:
        target = Home(state).load()
        for name in ("honest", "mallory"):
            words = (await cli("invite", "--state", str(state), "--address", first["text"])).split()
            token = next(word for word in words if word.startswith("cloudisense-join-"))
            await cli("join", token, "--state", str(tmp_path / name), "--name", name, "--bind", "127.0.0.1:0")
            nodes.append(await Honest(Home(tmp_path / name).load(), address).start())
        honest, mallory = nodes
        for _ in range(200):
            await asyncio.sleep(0.05)
            if target.identity.id in honest.mesh.members and target.identity.id in mallory.mesh.members:
                break
        await asyncio.sleep(1.0)
        rss = psutil.Process(process.pid).memory_info().rss
        await flood(honest, mallory, target, address)
        await asyncio.sleep(1.0)
        assert process.returncode is None, "it must still run"
        assert psutil.Process(process.pid).memory_info().rss - rss < RSS_GROWTH
        assert honest.mesh.members[target.identity.id].state == "alive"
        sent = {10**6 + n for n in range(int(SECONDS * 50))}
        assert len(honest.acks & sent) >= 0.99 * len(sent), f"{len(honest.acks & sent)} of {len(sent)}"
    finally:
        for node in nodes:
            await node.close()
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
        await drain


async def flood(honest: Honest, mallory: Honest, target: Membership, address: Address) -> None:
    """Junk, hellos, replays, and a member's bad claims, mismatching digests and repair requests, evenly over the seconds."""
    rng = random.Random(1)
    hello = hello_flood(target.identity.id, target.mesh_id)
    good = seal(mallory.member.identity, "suspect", target.mesh_id, b"x" * 100)
    sessions = mallory.mesh._sessions
    to = target.identity.id
    replay = sessions.seal(to, encode(Ping(1, bytes(8), ())))
    kinds: list[Callable[[int], bytes]] = [
        lambda i: rng.randbytes(600),
        lambda i: bytes([1, 1]) + rng.randbytes(600),
        hello,
        lambda i: replay,
        lambda i: sessions.seal(to, encode(Claims(((good[:-8] + i.to_bytes(8, "big"), b""),)))),
        lambda i: sessions.seal(to, encode(Ping(i, bytes(8), ()))),
        lambda i: sessions.seal(to, encode(PushPull((), (), (), 0, True))),
    ]
    begin, step, sent, probes = time.monotonic(), 0.01, 0, 0
    while (elapsed := time.monotonic() - begin) < SECONDS:
        while sent < elapsed * PER_SECOND:
            mallory.udp.send(address, kinds[sent % len(kinds)](sent))
            sent += 1
        while probes < elapsed * 50:
            honest.udp.send(address, honest.mesh._sessions.seal(to, encode(Ping(10**6 + probes, honest.mesh._delivery.digest(), ()))))
            probes += 1
        await asyncio.sleep(step)
