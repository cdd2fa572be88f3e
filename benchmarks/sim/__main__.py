"""``python -m benchmarks.sim``: how many times faster than real time the simulator is, and what a thousand nodes do in it."""

import argparse
import json
import os
import platform
import sys
from typing import Any

from benchmarks.sim.plots import Timing, agents, mesh
from benchmarks.sim.thousand import Facts, facts

AIMS = {("membership and feeds", 5): 500, ("membership and feeds", 1000): 2, ("whole agent, chaos", 5): 100}


def main() -> int:
    """Time, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sim", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[5, 100, 1000], help="sizes of the mesh")
    parser.add_argument("--facts", type=int, default=0, metavar="N", help="instead, what N nodes do: delivery, detection, bytes, agreement")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.facts:
        return _tell(facts(options.facts), options.json)
    rows: list[dict[str, Any]] = []
    for nodes in options.nodes:
        rows.append(_say(mesh(nodes, 600 if nodes < 50 else 60), options.json))
    rows.append(_say(agents(5, range(1, 31)), options.json))
    if options.json:
        print(json.dumps({"rows": rows, "python": platform.python_version(), "cpus": os.cpu_count(), "load": os.getloadavg()[0]}))
    return 0


def _say(timing: Timing, quiet: bool) -> dict[str, Any]:
    row = timing.row()
    aim = AIMS.get((timing.what, timing.nodes))
    if not quiet:
        told = f"{timing.what:<22} N={timing.nodes:<5} {row['times_real']:>8} times real time, {row['events_s']:>6} events/s of one core"
        print(told + (f"; aim {aim}" if aim else ""), flush=True)
    return row | {"aim": aim}


def _tell(found: Facts, as_json: bool) -> int:
    if as_json:
        print(json.dumps(found.row()))
    else:
        for name, value in found.row().items():
            print(f"{name:<40} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
