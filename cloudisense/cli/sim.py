"""The command sim: run the same nodes in virtual time."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from cloudisense.cli.options import Json, print_json

if TYPE_CHECKING:
    from cloudisense.sim.scenarios import Result

MAX_SEEDS = 1_000_000
LEASES = "leases"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(sim)


def sim(
    scenario: Annotated[str, typer.Argument(help="chaos, disk_full, helper_dies, leases or lossy.")] = "disk_full",
    nodes: Annotated[int | None, typer.Option("--nodes", help="How many hosts: 3, or 5 in chaos, where nothing is said.")] = None,
    seeds: Annotated[str, typer.Option("--seeds", "--seed", help="A seed, or a range A-B.")] = "1",
    trace: Annotated[bool, typer.Option("--trace", help="Print what the nodes said, with virtual time.")] = False,
    as_json: Json = False,
) -> None:
    """Run the same nodes in virtual time; a seed replays exactly."""
    from cloudisense.host.catalogue import builtin_actions
    from cloudisense.sim.plots import SCENARIOS

    if scenario == LEASES:
        _leases(_range(seeds), trace, as_json)
        return
    if scenario not in SCENARIOS:
        raise ValueError(f"no scenario {scenario!r}; there are {', '.join(sorted([*SCENARIOS, LEASES]))}")
    nodes = nodes if nodes is not None else (5 if scenario == "chaos" else 3)
    if not 3 <= nodes <= 100:
        raise ValueError(f"--nodes {nodes}: from 3 to 100")
    actions = builtin_actions()
    tally = _Tally()
    for seed in _range(seeds):
        result = SCENARIOS[scenario](seed, actions, nodes)
        tally.add(result)
        if trace and not as_json:
            for line in result.world.trace.lines:
                print(f"{line.at_ms / 1000:9.3f} s  {line.node:<4} {line.topic:<14} {line.text}")
    violations = tally.violations
    if as_json:
        print_json(
            {
                "scenario": scenario,
                "nodes": nodes,
                "seeds": len(tally.hashes),
                "violations": violations,
                "seconds": tally.seconds,
                "events": tally.events,
                "hashes": tally.hashes,
                "met": {fault: dict(sorted(states.items())) for fault, states in sorted(tally.met.items())},
            }
        )
    else:
        print(f"{scenario}: {len(tally.hashes)} seeds, {tally.events} events, {len(violations)} violations")
        for fault, states in sorted(tally.met.items()):
            print(f"  {fault:<20} met " + ", ".join(f"{state} {count}" for state, count in sorted(states.items())))
        for bad in violations:
            replay = f"cloudisense sim {scenario} --nodes {nodes} --seeds {bad['seed']} --trace"
            print(f"  seed {bad['seed']}: {bad['violation']}; replay: {replay}")
    if violations:
        raise typer.Exit(1)


def _leases(seeds: range, trace: bool, as_json: bool) -> None:
    """The lease by itself, in a world of its own: how many hosts there are is drawn from the seed. One line a bad seed, as it is found."""
    from collections import Counter

    from cloudisense.sim.lease_plot import run

    violations: list[dict[str, object]] = []
    seconds, events, coverage = 0.0, 0, Counter[str]()
    for seed in seeds:
        found = run(seed, trace and not as_json)
        seconds, events, coverage = seconds + found.seconds, events + found.events, coverage + found.coverage
        violations += [{"seed": seed, "violation": words} for words in found.violations]
        for line in found.lines:
            print(line)
        if found.violations and not as_json:
            print(f"  seed {seed}: {found.violations[0]}; replay: cloudisense sim {LEASES} --seeds {seed} --trace")
    if as_json:
        met = dict(sorted(coverage.items()))
        print_json({"scenario": LEASES, "seeds": len(seeds), "violations": violations, "seconds": seconds, "events": events, "met": met})
    else:
        print(f"{LEASES}: {len(seeds)} seeds, {events} events, {len(violations)} violations")
    if violations:
        raise typer.Exit(1)


class _Tally:
    """What many seeds came to; their worlds are not kept."""

    def __init__(self) -> None:
        self.violations: list[dict[str, object]] = []
        self.hashes: dict[str, str] = {}
        self.seconds = 0.0
        self.events = 0
        self.met: dict[str, Counter[str]] = {}

    def add(self, result: "Result") -> None:
        """One more."""
        self.violations += [{"seed": result.seed, "violation": words} for words in result.violations]
        self.hashes[str(result.seed)] = result.hash
        self.seconds += result.seconds
        self.events += result.events
        for (fault, state), count in result.met.items():
            self.met.setdefault(fault, Counter())[state] += count


def _range(text: str) -> range:
    match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", text)
    if match is None:
        raise ValueError(f"--seeds {text!r}: write one number, or a range like 1-300")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < first + MAX_SEEDS:
        raise ValueError(f"--seeds {text!r}: a range of 1 to {MAX_SEEDS} seeds, lowest first")
    return range(first, last + 1)
