"""Bytes per idle node in the simulator: probes, acks and digests of a mesh that knows itself, up to more nodes than one machine runs."""

import json
import random
import time

from cloudisense.keys.certificate import read_certificate
from cloudisense.mesh.core import Mesh
from cloudisense.mesh.member import Alive, Member, State
from cloudisense.mesh.stored import Stored
from cloudisense.sim.disk import Disk
from cloudisense.sim.meshes import Host, Meshes

QUIET_S = 20.0
MEASURED_S = 20.0
AIM_BYTES_S = 300
FLAT = 1.1
"""The dearest size against the cheapest."""


def settled(count: int, seed: int = 1) -> Meshes:
    """A mesh in which each knows all. Nobody joined: a million claims to check would take an hour, and tell nothing of idling."""
    world = Meshes(0, seed)
    now = world.clock.instant()
    for number in range(1, count + 1):
        name, address = f"n{number}", (f"10.0.{number // 250}.{number % 250 + 1}", 7963)
        host = Host(name, address, world.keys.member(name), Disk(world.clock, random.Random(number)))
        rng = random.Random(world.rng.randrange(1 << 62))
        host.mesh = Mesh(host.member.identity, host.member.certificate, world.chain, world.limits, rng, Stored(name, address, 1, 1))
        world.hosts.append(host)
        world._at[address] = host
        host.mesh.start(now)
    alive: State = "alive"
    claims = [(host, host.live()._membership.claim, read_certificate(host.member.certificate)) for host in world.hosts]
    known = [(host, claim, certificate, host.live()._membership.check_alive(claim)) for host, claim, certificate in claims]
    for host in world.hosts:
        mesh = host.live()
        for other, claim, certificate, said in known:
            if other is not host:
                _meet(mesh, Member(other.id, said, claim, other.member.certificate, certificate, alive, 0), said)
        world.settle(host)
    return world


def _meet(mesh: Mesh, member: Member, said: Alive) -> None:
    mesh.members[member.node] = member
    mesh._sessions.learn(member.node, said.session_public, _NEVER)
    mesh._membership.sum_up(member)


class _Never:
    boot_ns = 0


_NEVER = _Never()


def bytes_per_node(count: int) -> tuple[float, float]:
    """Bytes with IP and UDP headers, and datagrams, that a node sends in a second of quiet."""
    world = settled(count)
    world.run(QUIET_S)
    before, datagrams = world.network.bytes, world.network.datagrams
    world.run(MEASURED_S)
    assert world.whole(), "a quiet mesh stays whole"
    return (world.network.bytes - before) / MEASURED_S / count, (world.network.datagrams - datagrams) / MEASURED_S / count


def main(sizes: list[int], as_json: bool) -> int:
    """Measure each size and print it; the exit status says whether the aim is met."""
    found = []
    for count in sizes:
        began = time.monotonic()
        sent, datagrams = bytes_per_node(count)
        found.append(
            {"nodes": count, "bytes_s": round(sent, 1), "datagrams_s": round(datagrams, 2), "took_s": round(time.monotonic() - began)}
        )
        if not as_json:
            print(f"N={count}: {sent:.1f} B/s and {datagrams:.2f} datagrams/s a node, idle (simulated)", flush=True)
    costs = [row["bytes_s"] for row in found]
    met = max(costs) <= AIM_BYTES_S and max(costs) <= FLAT * min(costs)
    if as_json:
        print(json.dumps({"sizes": found, "aim_bytes_s": AIM_BYTES_S, "met": met}))
    else:
        print(f"{'met' if met else 'NOT MET'}: at most {AIM_BYTES_S} B/s, and flat within {round(100 * (FLAT - 1))} %")
    return 0 if met else 1
