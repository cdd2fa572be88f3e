"""The benchmark runs, measures both, and says what is missing; its figures are its own affair."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hosts import missing
from benchmarks.mesh.rows import Figure, median
from benchmarks.mesh.simulated import AIM_BYTES_S, FLAT, bytes_per_node
from benchmarks.mesh.table import ROWS, default_rows, flatten, lines

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"PYTHONPATH": str(ROOT)} | ({"PATH": path} if path is not None else {})
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.mesh", *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=280
    )


def test_what_is_missing_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("--nodes", "3", path=str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and ("apt-get install" in done.stderr or "needs root" in done.stderr)


@pytest.mark.parametrize("words", [["--nodes", "1"], ["--nodes", "ten"], ["--rows", "speed"], ["--sim", "0"]])
def test_bad_options_are_refused(words: list[str]) -> None:
    assert run(*words).returncode == 2


def test_a_figure_that_never_came_loses() -> None:
    assert median([1.0, None, None]) is None
    assert median([1.0, 2.0, None]) == 2.0
    results = flatten([Figure("gone", None, {"falsely_failed": 1})], 10, "ours", 1) + flatten([Figure("gone", 6.0)], 10, "serf", 1)
    found = {line["row"]: line for line in lines(results)}
    assert (found["gone"]["ours"], found["gone"]["met"], found["gone"]["ratio"]) == ("never", False, None)
    assert (found["gone_false"]["ours"], found["gone_false"]["met"]) == (1, False)


def test_the_aim_holds_in_every_run_not_on_average() -> None:
    results = [r for run, value in ((1, 1.0), (2, 9.0), (3, 1.0)) for r in flatten([Figure("gone", value)], 10, "ours", run)]
    line = lines(results)[0]
    assert (line["ours"], line["aim"], line["met"]) == (1.0, 3.0, False)


def test_aims_between_two_sizes_lie_on_a_line() -> None:
    assert [ROWS["gone"].aim(n) for n in (5, 10, 25, 50, 80)] == [3.0, 3.0, 3.5, 4.0, 4.0]
    assert ROWS["join"].aim(30) == 0.65


def test_every_aim_is_measured_at_its_sizes() -> None:
    assert {"flip", "partition", "events", "join", "gone", "idle"} <= set(default_rows(10))
    assert default_rows(25) == ["idle", "gone", "stopped"]
    assert {"events", "join", "gone", "idle"} <= set(default_rows(50))
    assert {"flip", "stopped"} <= set(default_rows(30)), "all rows for an unusual size"


def test_an_idle_node_costs_the_same_in_any_mesh() -> None:
    """1,000 nodes take minutes and are the benchmark's; a cost that grows with their number shows at 60."""
    few, many = (bytes_per_node(count)[0] for count in (10, 60))
    assert max(few, many) <= AIM_BYTES_S
    assert max(few, many) <= FLAT * min(few, many)


@pytest.mark.slow
def test_it_measures_serf_and_us() -> None:
    if (problem := missing("serf")) is not None:
        pytest.skip(problem)
    assert shutil.which("serf") is not None
    done = run("--nodes", "3", "--quick", "--rows", "join,events", "--json")
    assert done.returncode == 0, done.stderr
    found = {line["row"]: line for line in json.loads(done.stdout)["lines"]}
    for name in ("join", "event", "event_missing", "burst_missing"):
        assert isinstance(found[name]["peer"], int | float) and isinstance(found[name]["ours"], int | float), found[name]
    assert found["event"]["peer"] > 0 and found["event"]["ours"] > 0
