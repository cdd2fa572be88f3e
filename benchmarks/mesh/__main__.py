"""``python -m benchmarks.mesh``: our mesh and serf, alternately, on the same hosts. Root only."""

import argparse
import json
import os
import platform
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.hosts import World, missing
from benchmarks.mesh import serf
from benchmarks.mesh.ours import Ours, fsync_ms
from benchmarks.mesh.peer import Peer
from benchmarks.mesh.rows import QUICK, STOPPED, Effort, Figure
from benchmarks.mesh.table import MEASURES, flatten, lines, print_lines

PRIORITY = -15


def main() -> int:
    """Run it; the exit status says whether it could run, not who won."""
    options = _options()
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
    """All rows of one number of nodes, the peer first, then us, each alone on the machine."""
    results: list[dict[str, Any]] = []
    with World(nodes, options.state, static_neighbours=True) as world:
        rng = random.Random(f"{options.seed} {nodes} {run}")
        meshes: list[type[Peer]] = [serf.Serf, Ours] if options.peer == "serf" else [Ours]
        for kind in meshes:
            mesh = kind(world, random.Random(rng.random()))
            _log(options, f"N={nodes} run {run}: {mesh.name} (load {os.getloadavg()[0]:.2f}, one sync {fsync_ms(world.root):.2f} ms)")
            try:
                mesh.start(mesh.seats.values())
                for name in options.rows:
                    if name == "stopped" and nodes < 2 * STOPPED + 1:
                        continue
                    try:
                        mesh.settle()
                        figures = MEASURES[name](mesh, options.effort)
                    except RuntimeError as error:
                        figures = [Figure(name, None, {"error": str(error)})]
                    results += flatten(figures, nodes, mesh.name, run)
                    for figure in figures:
                        _log(options, f"  {mesh.name} {figure.row}: {figure.value} {json.dumps(figure.detail) if figure.detail else ''}")
            finally:
                mesh.stop(kill=True)
                world.heal()
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mesh", description="Our mesh beside serf on hosts of namespaces; root only."
    )
    parser.add_argument("--peer", choices=("serf", "none"), default="serf", help="whom to run beside us")
    parser.add_argument("--nodes", type=_numbers, default=[10, 25, 50], help="how many hosts, for example 10,25,50")
    parser.add_argument("--runs", type=int, default=1, help="how often, all of it")
    parser.add_argument("--rows", type=_rows, default=list(MEASURES), help=f"which rows: {','.join(MEASURES)}")
    parser.add_argument("--quick", action="store_true", help="fewer kills and events, shorter waits: to find out, not to report")
    parser.add_argument("--seed", type=int, default=1, help="who is killed and who speaks")
    parser.add_argument("--state", type=Path, default=None, help="where the hosts' folders lie; default: the folder for temporary files")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every detail")
    options = parser.parse_args()
    options.effort = QUICK if options.quick else Effort()
    return options


def _numbers(text: str) -> list[int]:
    found = [int(word) for word in text.split(",") if word.isdecimal()]
    if len(found) != len(text.split(",")) or not all(2 <= number <= 200 for number in found):
        raise argparse.ArgumentTypeError("write numbers of 2 to 200, with commas")
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
