"""What each row is called, what we aim for (the project's anchors), and how the table is printed."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.mesh import idle, rows
from benchmarks.mesh.rows import Figure, Measure


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; lower is better in all of them. ``aim`` gives the bound for N nodes, ``None`` for no aim."""

    title: str
    unit: str
    aim: Callable[[int], float | None]


def _steps(*steps: tuple[int, float]) -> Callable[[int], float]:
    """The value of the first step that is large enough; between steps on a line, beyond the last as the last."""

    def aim(nodes: int) -> float:
        for (low, value), (high, above) in pairwise(steps):
            if nodes <= low:
                return value
            if nodes <= high:
                return round(value + (above - value) * (nodes - low) / (high - low), 3)
        return steps[-1][1]

    return aim


def _flat(value: float | None) -> Callable[[int], float | None]:
    return lambda nodes: value


ROWS = {
    "join": Row("join: up and alone -> all see all", "s", _steps((10, 0.3), (50, 1.0))),
    "idle_cpu": Row("idle: CPU per node", "% of a core", _flat(0.3)),
    "idle_bytes": Row("idle: UDP bytes sent per node", "B/s", _flat(300)),
    "idle_rss": Row("idle: resident memory per node", "MB", _flat(None)),
    "event": Row("event -> every node, p50", "s", _steps((10, 0.05), (50, 0.1))),
    "event_missing": Row("events not everywhere 4 s later", "%", _flat(0)),
    "burst_missing": Row("of a burst of 50, not everywhere 4 s later", "events", _flat(0)),
    "gone": Row("host gone -> every node knows, p50", "s", _steps((10, 3.0), (25, 3.5), (50, 4.0))),
    "gone_false": Row("  healthy nodes called failed meanwhile", "views", _flat(0)),
    "killed": Row("agent killed, host up -> every node knows, p50", "s", _flat(1.0)),
    "killed_false": Row("  healthy nodes called failed meanwhile", "views", _flat(0)),
    "stopped_healthy": Row("3 stopped 2, 5, 8, 15 s: healthy called failed", "nodes", _flat(0)),
    "stopped_dead": Row("  stopped called failed (of 12)", "nodes", _flat(0)),
    "partition_detected": Row("half against half: detected everywhere", "s", _flat(5.0)),
    "partition_healed": Row("  healed: all see all", "s", _flat(1.0)),
    "flip_fail": Row("one node deaf 20 s, 3 times: fail events", "events", lambda nodes: nodes - 1),
    "flip_rejoin": Row("  rejoin events", "events", lambda nodes: nodes - 1),
}

MEASURES: dict[str, Measure] = {
    "join": rows.join,
    "idle": idle.idle,
    "events": rows.events,
    "gone": rows.gone,
    "killed": rows.killed,
    "stopped": rows.stopped,
    "partition": rows.partition,
    "flip": rows.flip,
}
"""What ``--rows`` names, in the order in which they run."""
TOGETHER = frozenset({"idle", "gone", "stopped", "partition", "flip"})
"""Mostly waiting: both meshes at the same time, each on its own hosts."""
AIMED = {"join": (10, 50), "events": (10, 50), "killed": (10, 50), "stopped": (25,), "partition": (10,), "flip": (10,)}
"""The sizes that a row has an aim for; all, where it is not named."""


def default_rows(nodes: int) -> list[str]:
    """The rows that ``nodes`` has an aim for; all of them where that is none of the usual sizes."""
    usual = {size for sizes in AIMED.values() for size in sizes}
    return [name for name in MEASURES if nodes not in usual or nodes in AIMED.get(name, usual)]


def lines(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dictionary for each number of nodes and row: medians over the runs, ratio, aim, met."""
    found: list[dict[str, Any]] = []
    for nodes in sorted({result["nodes"] for result in results}):
        for key, row in ROWS.items():
            values = {
                name: [r["value"] for r in results if r["nodes"] == nodes and r["row"] == key and r["mesh"] == name]
                for name in ("serf", "ours")
            }
            if not any(values.values()):
                continue
            peer, ours = (_middle(values[name]) for name in ("serf", "ours"))
            aim = row.aim(nodes)
            line = {"nodes": nodes, "row": key, "measure": row.title, "unit": row.unit, "peer": peer, "ours": ours, "aim": aim}
            line["ratio"] = round(ours / peer, 3) if isinstance(ours, float | int) and isinstance(peer, float | int) and peer else None
            line["met"] = _met(values["ours"], aim)
            found.append(line)
    return found


def _middle(values: list[float | None]) -> float | str | None:
    if not values:
        return None
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if len(known) == len(values) else "never"


def _met(values: list[float | None], aim: float | None) -> bool | None:
    """In every run, not on average."""
    if aim is None or not values:
        return None
    return all(value is not None and value <= aim for value in values)


def print_lines(found: list[dict[str, Any]], title: str) -> None:
    """The table, for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("N", "measure", "unit", "serf", "ours", "ratio", "aim", "met"):
        table.add_column(heading, justify="left" if heading in ("measure", "unit", "met") else "right", no_wrap=True)
    words = {True: "yes", False: "NO", None: ""}
    for line in found:
        cells = [line["nodes"], line["measure"], line["unit"], line["peer"], line["ours"], line["ratio"], line["aim"]]
        table.add_row(
            *("" if cell is None else f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in cells), words[line["met"]]
        )
    Console(width=130).print(table)


def flatten(figures: list[Figure], nodes: int, mesh: str, run: int) -> list[dict[str, Any]]:
    """Figures as the JSON has them; a false accusation has a line of its own."""
    found: list[dict[str, Any]] = []
    for figure in figures:
        common = {"nodes": nodes, "mesh": mesh, "run": run}
        found.append({**common, "row": figure.row, "value": figure.value, "detail": figure.detail})
        if "falsely_failed" in figure.detail:
            found.append({**common, "row": f"{figure.row}_false", "value": figure.detail["falsely_failed"], "detail": {}})
    return found
