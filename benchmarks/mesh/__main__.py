"""``python -m benchmarks.mesh``: our mesh and serf, alternately, on the same hosts. Root only."""

import argparse
import json
import os
import platform
import random
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.hosts import World, missing
from benchmarks.mesh import serf, simulated
from benchmarks.mesh.ours import Ours, fsync_ms
from benchmarks.mesh.peer import Peer
from benchmarks.mesh.rows import QUICK, STOPPED, Effort, Figure
from benchmarks.mesh.table import MEASURES, TOGETHER, default_rows, flatten, lines, print_lines

PRIORITY = -15


def main() -> int:
    """Run it; the exit status says whether it could run, not who won."""
    options = _options()
    if options.sim:
        return simulated.main(options.sim, options.json)
    problem = missing(*(["serf"] if options.peer == "serf" else []))
    if problem is not None:
        print(f"benchmarks.mesh: {problem}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    results: list[dict[str, Any]] = []
    began = time.time()
    # The harness reads at once what a node says, however busy the nodes are; they themselves run at the usual priority.
    os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    for nodes in options.nodes:
        for run in range(1, options.runs + 1):
            results += _run(nodes, run, options)
            if not options.json:
                print_lines(lines(results), "so far")
    facts = _facts(options) | {"took_s": round(time.time() - began)}
    found = lines(results)
    if options.json:
        print(json.dumps({"facts": facts, "lines": found, "results": results}))
    else:
        print_lines(found, f"ours and serf {facts['serf']}, {options.runs} run(s), load {facts['load']}, {facts['cpus']} CPUs")
    return 0


def _run(nodes: int, run: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one number of nodes. Each mesh has hosts of its own; what is a matter of CPU, each does while the other only idles."""
    results: list[dict[str, Any]] = []
    rng = random.Random(f"{options.seed} {nodes} {run}")
    names = [name for name in options.rows or default_rows(nodes) if name != "stopped" or nodes > 2 * STOPPED]
    with ExitStack() as stack:
        meshes: list[Peer] = []
        kinds: list[type[Peer]] = [serf.Serf, Ours] if options.peer == "serf" else [Ours]
        for kind in kinds:
            world = stack.enter_context(World(nodes, options.state, static_neighbours=True))
            mesh = kind(world, random.Random(rng.random()))
            stack.callback(mesh.stop, kill=True)
            meshes.append(mesh)
            mesh.start(mesh.seats.values())
        _log(options, f"N={nodes} run {run} (load {os.getloadavg()[0]:.2f}, one sync {fsync_ms(meshes[-1].world.root):.2f} ms)")
        for name in names:
            for together in [meshes] if name in TOGETHER else [[mesh] for mesh in meshes]:
                for mesh, figures in zip(together, _measure_all(together, name, options), strict=True):
                    results += flatten(figures, nodes, mesh.name, run)
                    for figure in figures:
                        _log(options, f"  {mesh.name} {figure.row}: {figure.value} {json.dumps(figure.detail) if figure.detail else ''}")
    return results


def _measure_all(meshes: list[Peer], name: str, options: argparse.Namespace) -> list[list[Figure]]:
    """One row of each mesh at the same time. Daemon threads: a signal ends the benchmark at once, and with it its hosts."""
    found: dict[int, list[Figure]] = {}

    def measure(i: int) -> None:
        found[i] = _measure(meshes[i], name, options)

    threads = [threading.Thread(target=measure, args=(i,), daemon=True) for i in range(len(meshes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found.get(i, [Figure(name, None, {"error": "the harness failed"})]) for i in range(len(meshes))]


def _measure(mesh: Peer, name: str, options: argparse.Namespace) -> list[Figure]:
    try:
        mesh.settle()
        return MEASURES[name](mesh, options.effort)
    except RuntimeError as error:
        return [Figure(name, None, {"error": str(error)})]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mesh",
        description="Our mesh beside serf on hosts of namespaces; root only. The default takes about 12 minutes on two cores.",
    )
    parser.add_argument("--peer", choices=("serf", "none"), default="serf", help="whom to run beside us")
    parser.add_argument("--nodes", type=_numbers, default=[10, 25, 50], help="how many hosts, for example 10,25,50")
    parser.add_argument("--runs", type=int, default=1, help="how often, all of it")
    parser.add_argument("--rows", type=_rows, default=None, help=f"only these: {','.join(MEASURES)}; default: those with an aim for this N")
    parser.add_argument("--quick", action="store_true", help="fewer kills and events, shorter waits: to find out, not to report")
    parser.add_argument("--seed", type=int, default=1, help="who is killed and who speaks")
    parser.add_argument(
        "--sim", type=_numbers, help="instead: bytes per idle node in the simulator for these numbers, for example 10,100,1000"
    )
    parser.add_argument("--state", type=Path, default=None, help="where the hosts' folders lie; default: the folder for temporary files")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every detail")
    options = parser.parse_args()
    options.effort = QUICK if options.quick else Effort()
    return options


def _numbers(text: str) -> list[int]:
    found = [int(word) for word in text.split(",") if word.isdecimal()]
    if len(found) != len(text.split(",")) or not all(2 <= number <= 1500 for number in found):
        raise argparse.ArgumentTypeError("write numbers of 2 to 1500, with commas")
    return found


def _rows(text: str) -> list[str]:
    wanted = text.split(",")
    if unknown := [name for name in wanted if name not in MEASURES]:
        raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(MEASURES)}")
    return [name for name in MEASURES if name in wanted]


def _facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "serf": serf.version() if options.peer == "serf" else None,
        "cpus": os.cpu_count(),
        "load": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "quick": options.quick,
        "seed": options.seed,
    }


def _log(options: argparse.Namespace, text: str) -> None:
    print(text, file=sys.stderr if options.json else sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
