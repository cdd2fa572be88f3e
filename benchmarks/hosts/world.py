"""The world of some hosts: the bridge that joins them, cuts, and how it all ends.

Cuts and counters lie in the bridge's own namespace, in one nft table of the family ``bridge``: one transaction changes what
passes between all hosts at one instant, and the sender of a packet that is cut notices nothing (a drop in the host itself would give
it EPERM). Two kinds: ``partition`` and ``mute`` are a firewall's, ARP passes; ``drop_all`` and ``kill`` pull the cable, and after a few
seconds the neighbours' kernels know no way to it any more (and need up to a second to find it again).

Every host's neighbours count against one limit of the whole machine (neigh/default/gc_thresh3, 1024 entries), which is not ours to
change and which 33 hosts that all talk reach: then packets are lost. ``static_neighbours`` writes the entries down instead, for good;
those do not count. Without ARP a pulled cable is silent like a firewall.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from benchmarks.hosts.host import Host, signal_all
from benchmarks.hosts.needs import cgroup_root
from benchmarks.hosts.output import Output

PREFIX = "cs-hosts-"
MAX_WITH_ARP = 25
IP_AND_UDP_HEADERS = 28
TABLE = """
table bridge cloudisense {
    set cut { type ether_addr . ether_addr; }
    set gone { type ifname; }
    set mute { type ifname; }
    set sent { type ifname . inet_proto; size 65535; flags dynamic; counter; }
    chain count {
        type filter hook prerouting priority 0;
        ip version 4 update @sent { iifname . ip protocol }
        ip6 version 6 update @sent { iifname . ip6 nexthdr }
    }
    chain pass {
        type filter hook forward priority 0;
        iifname @gone drop
        oifname @gone drop
        meta protocol != arp ether saddr . ether daddr @cut drop
        meta protocol != arp iifname @mute drop
    }
}
"""

Side = Host | Iterable[Host]


class World:
    """A context of ``count`` hosts, n1 to n``count``, all connected. ``base`` is where their folders lie."""

    def __init__(self, count: int, base: Path | None = None, static_neighbours: bool = False) -> None:
        if count > MAX_WITH_ARP and not static_neighbours:
            raise ValueError(f"more than {MAX_WITH_ARP} hosts need static_neighbours")
        self._static = static_neighbours
        self.output = Output()
        self.hosts: list[Host] = []
        self._count = count
        self._base = Path(base or tempfile.gettempdir())
        self._cut: set[tuple[str, str]] = set()
        self._gone: set[str] = set()
        self._mute: set[str] = set()
        self._bridge: subprocess.Popen[bytes] | None = None
        self._cgroup: Path | None = None
        self.root = Path()

    def __enter__(self) -> "World":
        sweep(self._base)
        try:
            self._make()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end()

    @property
    def has_cgroups(self) -> bool:
        """Do the hosts have a cgroup? Without one nothing can be killed or measured as a whole."""
        return self._cgroup is not None

    # -- cuts ----------------------------------------------------------------------------------------------------------

    def partition(self, a: Side, b: Side, one_way: bool = False) -> None:
        """Drop what goes from ``a`` to ``b``, and unless ``one_way`` what goes back. ARP passes."""
        for left in _all(a):
            for right in _all(b):
                self._cut.add((left.mac, right.mac))
                if not one_way:
                    self._cut.add((right.mac, left.mac))
        self._apply()

    def drop_all(self, *hosts: Host) -> None:
        """These hosts run on, and no packet reaches them or leaves them."""
        self._gone |= {host.port for host in hosts}
        self._apply()

    def mute(self, *hosts: Host) -> None:
        """Drop all that these hosts send but ARP."""
        self._mute |= {host.port for host in hosts}
        self._apply()

    def heal(self, *hosts: Host) -> None:
        """End the cuts of these hosts; of all when none is named."""
        ports, macs = {host.port for host in hosts}, {host.mac for host in hosts}
        self._gone = {port for port in self._gone if hosts and port not in ports}
        self._mute = {port for port in self._mute if hosts and port not in ports}
        self._cut = {pair for pair in self._cut if hosts and macs.isdisjoint(pair)}
        self._apply()

    def kill(self, host: Host) -> None:
        """Power off: first no packet leaves it any more, then nothing in it runs."""
        self.drop_all(host)
        host.kill_processes()

    def restart(self, host: Host) -> None:
        """Power on: its network is back; what should run, the caller starts."""
        self.heal(host)

    def freeze(self, *pids: int) -> None:
        """SIGSTOP."""
        signal_all(pids, signal.SIGSTOP)

    def thaw(self, *pids: int) -> None:
        """SIGCONT."""
        signal_all(pids, signal.SIGCONT)

    def sent(self) -> dict[str, dict[str, tuple[int, int]]]:
        """Host name -> protocol -> (packets, bytes) sent so far, bytes with IP headers: for UDP, payload + 28."""
        listed = json.loads(self._in_bridge(["nft", "--json", "list", "set", "bridge", "cloudisense", "sent"]).stdout)
        names = {host.port: host.name for host in self.hosts}
        found: dict[str, dict[str, tuple[int, int]]] = {host.name: {} for host in self.hosts}
        elements = next(item["set"] for item in listed["nftables"] if "set" in item).get("elem", [])
        for element in elements:
            port, protocol = element["elem"]["val"]["concat"]
            counter = element["elem"]["counter"]
            found[names[port]][str(protocol)] = (counter["packets"], counter["bytes"])
        return found

    # -- inside --------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-{_started(os.getpid())}-", dir=self._base))
        top = cgroup_root()
        if top is not None:
            cgroup = top / self.root.name
            cgroup.mkdir()
            self._cgroup = cgroup
        self._bridge = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sh", "-c", "echo up; exec sleep infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        for number in range(1, self._count + 1):
            name = f"n{number}"
            self.hosts.append(Host(number, self.root / name, self._cgroup / name if self._cgroup is not None else None))
        assert self._bridge.stdout is not None
        self._bridge.stdout.readline()
        self._bridge.stdout.close()
        for host in self.hosts:
            host.ready()
        links = ["link add name bridge0 type bridge forward_delay 0 mcast_snooping 0", "link set bridge0 up"]
        for host in self.hosts:
            links.append(f"link add name {host.port} type veth peer name eth0 address {host.mac} netns {host.pid}")
            links.append(f"link set {host.port} master bridge0 up")
        self._in_bridge(["ip", "-batch", "-"], "\n".join(links))
        self._in_bridge(["nft", "-f", "-"], TABLE)
        waiting = [self._address(host) for host in self.hosts]
        for host, child in zip(self.hosts, waiting, strict=True):
            if child.wait():
                raise RuntimeError(f"host {host.name} got no address")

    def _address(self, host: Host) -> "subprocess.Popen[bytes]":
        words = 'ip addr add "$0/16" dev eth0 && ip addr add "$1/64" dev eth0 nodad && ip link set eth0 up && ip -batch "$2"'
        batch = host.folder / "neighbours"
        others = [other for other in self.hosts if other is not host and self._static]
        lines = [f"neigh add {ip} lladdr {other.mac} dev eth0 nud permanent\n" for other in others for ip in (other.ip, other.ip6)]
        batch.write_text("".join(lines), encoding="ascii")
        return host.spawn(["sh", "-c", words, host.ip, host.ip6, str(batch)])

    def _apply(self) -> None:
        sets = {"cut": [f"{a} . {b}" for a, b in sorted(self._cut)], "gone": sorted(self._gone), "mute": sorted(self._mute)}
        lines = [f"flush set bridge cloudisense {name}" for name in sets]
        lines += [f"add element bridge cloudisense {name} {{ {', '.join(items)} }}" for name, items in sets.items() if items]
        self._in_bridge(["nft", "-f", "-"], "\n".join(lines) + "\n")

    def _in_bridge(self, argv: list[str], data: str = "") -> "subprocess.CompletedProcess[str]":
        assert self._bridge is not None
        enter = ["nsenter", "--target", str(self._bridge.pid), "--net", "--"]
        done = subprocess.run([*enter, *argv], input=data, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{argv[0]}: {' '.join(done.stderr.split())[:500]}")
        return done

    def _end(self) -> None:
        for host in self.hosts:
            host.end()
        if self._bridge is not None:
            self._bridge.kill()
            self._bridge.wait()
        self.output.close()
        if self._cgroup is not None:
            self._cgroup.rmdir()
        if self.root != Path():
            shutil.rmtree(self.root, ignore_errors=True)


def sweep(base: Path) -> None:
    """Remove folders and cgroups of harnesses that were killed. Their processes and networks died with them."""
    top = cgroup_root()
    for folder in [*base.glob(f"{PREFIX}*"), *(top.glob(f"{PREFIX}*") if top is not None else ())]:
        pid, started = folder.name.removeprefix(PREFIX).split("-")[:2]
        if _started(int(pid)) == started:
            continue
        if folder.parent != top:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        for inner in [*sorted(folder.glob("*/")), folder]:
            with contextlib.suppress(OSError):  # another world sweeps too
                inner.rmdir()


def _started(pid: int) -> str:
    """When a process began, in clock ticks after boot (proc(5)); empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return ""


def _all(side: Side) -> list[Host]:
    return [side] if isinstance(side, Host) else list(side)
