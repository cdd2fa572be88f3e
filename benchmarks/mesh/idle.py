"""What a node costs while nothing happens: CPU, memory, and bytes on the wire."""

import statistics
import time
from pathlib import Path

from benchmarks.hosts.namespaces import threads_of
from benchmarks.mesh.peer import Peer
from benchmarks.mesh.rows import Effort, Figure

QUIET_S = 25.0
NS_PER_S = 1e9


def idle(mesh: Peer, effort: Effort) -> list[Figure]:
    """Per node, over ``idle_s``, after a quiet while."""
    mesh.settle()
    time.sleep(QUIET_S)
    pids = mesh.pids()
    began = time.monotonic()
    cpu, sent = {name: cpu_s(pid) for name, pid in pids.items()}, mesh.world.sent()
    time.sleep(effort.idle_s)
    took = time.monotonic() - began
    used = [100 * (cpu_s(pid) - cpu[name]) / took for name, pid in pids.items()]
    after = mesh.world.sent()

    def rate(protocol: str, index: int) -> list[float]:
        zero = (0, 0)
        return [(after[name].get(protocol, zero)[index] - sent[name].get(protocol, zero)[index]) / took for name in pids]

    memory = [memory_mb(pid) for pid in pids.values()]
    wire = rate("udp", 1)
    detail = {
        "seconds": round(took),
        "cpu_worst_pct": round(max(used), 3),
        "udp_worst_bytes_s": round(max(wire), 1),
        "udp_packets_s": round(statistics.mean(rate("udp", 0)), 2),
        "tcp_bytes_s": round(statistics.mean(rate("tcp", 1)), 1),
        "pss_mb": round(statistics.mean(pss for _, pss in memory), 1),
    }
    return [
        Figure("idle_cpu", round(statistics.mean(used), 3), detail),
        Figure("idle_bytes", round(statistics.mean(wire), 1)),
        Figure("idle_rss", round(statistics.mean(rss for rss, _ in memory), 1), {"pss_mb": detail["pss_mb"]}),
    ]


def cpu_s(pid: int) -> float:
    """Seconds on a CPU of all live threads, to the nanosecond (the first field of /proc/PID/schedstat)."""
    total = 0
    for thread in threads_of(pid):
        try:
            total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_bytes().split()[0])
        except OSError:
            continue
    return total / NS_PER_S


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident and proportional set of a process (proc(5), smaps_rollup), in megabytes."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        found[words[0]] = int(words[1])
    return found["Rss:"] / 1024, found["Pss:"] / 1024
