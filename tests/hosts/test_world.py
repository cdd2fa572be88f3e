"""The hosts themselves: apart, joined, cut and healed, counted, and gone without a trace."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.hosts import Host, World, wait_for
from benchmarks.hosts.needs import cgroup_root
from benchmarks.hosts.world import IP_AND_UDP_HEADERS

MakeWorld = Callable[[int], World]

# Listens where it is told and prints what comes in; says when it listens.
LISTEN = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((sys.argv[1], 9999))
    print("listening", flush=True)
    while True:
        print(s.recv(2048).decode(), flush=True)
"""
# Sends words to an address; an error of the network is an exit status.
SEND = """
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM) as s:
    for word in sys.argv[2:]:
        s.sendto(word.encode(), (sys.argv[1], 9999))
"""
HARNESS = """
import sys, time
from benchmarks.hosts import World
with World(2) as world:
    child = world.hosts[0].spawn(["sleep", "1000"])
    print(world.root, world.hosts[0].pid, child.pid, flush=True)
    time.sleep(1000)
"""


def listener(world: World, host: Host, address: str) -> list[str]:
    """Words that reach ``host`` at ``address``, as they come."""
    heard: list[str] = []
    process = host.spawn([sys.executable, "-c", LISTEN, address], stdout=subprocess.PIPE)
    assert process.stdout is not None
    world.output.take(process.stdout, lambda line: heard.append(line.text.decode()))
    assert wait_for(lambda: heard == ["listening"], 10)
    heard.clear()
    return heard


def send(host: Host, address: str, *words: str) -> int:
    return host.run([sys.executable, "-c", SEND, address, *words]).returncode


def test_a_host_is_alone_in_its_namespaces(make_world: MakeWorld) -> None:
    world = make_world(2)
    first, second = world.hosts
    sleeper = second.spawn(["sleep", "1000"])
    assert first.run(["hostname"]).stdout == b"n1\n"
    seen = first.run(["sh", "-c", "cat /proc/[0-9]*/comm"]).stdout.split()
    assert b"sh" in seen and seen.count(b"sleep") == 1, "its own init and that one's sleep, and no other host's"
    assert first.run(["kill", "-0", str(sleeper.pid)]).returncode != 0
    assert second.processes() == [sleeper.pid]
    assert f"{first.ip}/16" in first.run(["ip", "-4", "addr"]).stdout.decode()
    assert "eth0" not in Path("/proc/net/dev").read_text(encoding="ascii") or b"p1" not in Path("/proc/net/dev").read_bytes()


def test_one_way_cut_then_healed_on_both_internet_protocols(make_world: MakeWorld) -> None:
    world = make_world(3)
    a, b, c = world.hosts
    at_a, at_b, six = listener(world, a, a.ip), listener(world, b, b.ip), listener(world, b, b.ip6)
    assert send(a, b.ip, "before") == send(b, a.ip, "before") == send(a, b.ip6, "before") == 0
    assert wait_for(lambda: at_a == at_b == six == ["before"], 5)
    world.partition(a, b, one_way=True)
    assert send(a, b.ip, "cut") == send(a, b.ip6, "cut") == 0, "the sender must not notice"
    assert send(b, a.ip, "back") == send(c, b.ip, "third") == 0
    assert wait_for(lambda: at_a[1:] == ["back"] and at_b[1:] == ["third"], 5)
    assert six == ["before"]
    world.heal()
    assert send(a, b.ip, "after") == send(a, b.ip6, "after") == 0
    assert wait_for(lambda: at_b[2:] == ["after"] and six[1:] == ["after"], 5)
    assert at_a == ["before", "back"]


def test_a_host_whose_packets_are_all_dropped(make_world: MakeWorld) -> None:
    world = make_world(3)
    a, b, c = world.hosts
    at_a, at_c = listener(world, a, a.ip), listener(world, c, c.ip)
    world.drop_all(a)
    send(a, c.ip, "out")
    send(b, a.ip, "in")
    assert send(b, c.ip, "others") == 0
    assert wait_for(lambda: at_c == ["others"], 5)
    assert at_a == []
    world.heal(a)
    assert wait_for(lambda: send(b, a.ip, "again") == 0 and at_a[-1:] == ["again"], 10)


def test_a_muted_host_hears_and_is_not_heard(make_world: MakeWorld) -> None:
    world = make_world(2)
    a, b = world.hosts
    at_a, at_b = listener(world, a, a.ip), listener(world, b, b.ip)
    world.mute(a)
    assert send(a, b.ip, "out") == send(b, a.ip, "in") == 0
    assert wait_for(lambda: at_a == ["in"], 5)
    world.heal(a)
    assert send(a, b.ip, "out again") == 0
    assert wait_for(lambda: at_b == ["out again"], 5)


def test_bytes_are_counted_with_ip_and_udp_headers(make_world: MakeWorld) -> None:
    world = make_world(2)
    a, b = world.hosts
    heard = listener(world, b, b.ip)
    before = world.sent()["n1"].get("udp", (0, 0))
    assert send(a, b.ip, "x" * 100, "y" * 7) == 0
    assert wait_for(lambda: len(heard) == 2, 5)
    packets, size = world.sent()["n1"]["udp"]
    assert (packets - before[0], size - before[1]) == (2, 107 + 2 * IP_AND_UDP_HEADERS)


def test_power_off_ends_all_of_a_host_and_nothing_else(make_world: MakeWorld) -> None:
    world = make_world(2)
    a, b = world.hosts
    tree = a.spawn(["sh", "-c", "sleep 1000 & sleep 1000"])
    other = b.spawn(["sleep", "1000"])
    assert wait_for(lambda: len(a.processes()) == 3, 5)
    world.kill(a)
    assert tree.returncode == -signal.SIGKILL
    assert wait_for(lambda: a.processes() == [], 5)
    assert other.poll() is None
    world.restart(a)
    heard = listener(world, a, a.ip)
    assert wait_for(lambda: send(b, a.ip, "hello") == 0 and heard[-1:] == ["hello"], 10)


def test_freeze_and_thaw(make_world: MakeWorld) -> None:
    world = make_world(1)
    process = world.hosts[0].spawn(["sleep", "1000"])
    state = Path(f"/proc/{process.pid}/stat")
    world.freeze(process.pid)
    assert wait_for(lambda: state.read_bytes().rpartition(b") ")[2][:1] == b"T", 5)
    world.thaw(process.pid)
    assert wait_for(lambda: state.read_bytes().rpartition(b") ")[2][:1] == b"S", 5)


def test_a_cgroup_counts_and_holds_the_host(make_world: MakeWorld) -> None:
    world = make_world(1)
    host = world.hosts[0]
    assert (host.cgroup is not None) == (cgroup_root() is not None) == world.has_cgroups
    process = host.spawn(["sleep", "1000"])
    if host.cgroup is not None:
        assert (host.cgroup / "cgroup.procs").read_text(encoding="ascii").split() == [str(process.pid)]
        assert host.cpu_s() >= 0


def test_a_harness_that_was_killed_leaves_nothing(make_world: MakeWorld) -> None:
    """Its processes die with it; the next world takes away its folders and cgroups."""
    make_world(1)  # skips where hosts cannot be made
    root = Path(__file__).resolve().parents[2]
    harness = subprocess.Popen(
        [sys.executable, "-c", HARNESS], stdout=subprocess.PIPE, text=True, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}
    )
    assert harness.stdout is not None
    folder, holder, child = harness.stdout.readline().split()
    assert Path(folder, "n2").is_dir() and Path(f"/proc/{child}").exists()
    harness.kill()
    harness.wait()
    harness.stdout.close()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (holder, child)), 5)
    with World(1):
        assert not Path(folder).exists()
        top = cgroup_root()
        assert top is None or not (top / Path(folder).name).exists()


def test_many_hosts_are_quick(make_world: MakeWorld) -> None:
    began = time.monotonic()
    world = make_world(20)
    assert time.monotonic() - began < 10
    with world.hosts[0].connect("127.0.0.1", _open_port(world, world.hosts[0])) as inside:
        assert inside.getpeername()[0] == "127.0.0.1"


def _open_port(world: World, host: Host) -> int:
    words: list[str] = []
    code = "import socket,time; s=socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(1000)"
    process = host.spawn([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    world.output.take(process.stdout, lambda line: words.append(line.text.decode()))
    assert wait_for(lambda: len(words) == 1, 10)
    with socket.socket() as outside:
        assert outside.connect_ex(("127.0.0.1", int(words[0]))) != 0, "the host's loopback is its own"
    return int(words[0])
