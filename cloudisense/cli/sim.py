"""The command sim: run the same nodes in virtual time."""

import re
from typing import Annotated

import typer

from cloudisense.cli.options import Json, print_json

MAX_SEEDS = 1_000_000
LEASES = "leases"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(sim)


def sim(
    scenario: Annotated[str, typer.Argument(help="disk_full, lossy, helper_dies, or leases.")] = "disk_full",
    nodes: Annotated[int, typer.Option("--nodes", help="How many hosts.")] = 3,
    seeds: Annotated[str, typer.Option("--seeds", help="A seed, or a range A-B.")] = "1",
    trace: Annotated[bool, typer.Option("--trace", help="Print what the nodes said, with virtual time.")] = False,
    as_json: Json = False,
) -> None:
    """Run the same nodes in virtual time; a seed replays exactly."""
    from cloudisense.host.catalogue import builtin_actions
    from cloudisense.sim.scenarios import SCENARIOS

    if scenario == LEASES:
        _leases(_range(seeds), trace, as_json)
        return
    if scenario not in SCENARIOS:
        raise ValueError(f"no scenario {scenario!r}; there are {', '.join(sorted([*SCENARIOS, LEASES]))}")
    if not 3 <= nodes <= 100:
        raise ValueError(f"--nodes {nodes}: from 3 to 100")
    actions = builtin_actions()
    results = [SCENARIOS[scenario](seed, actions, nodes) for seed in _range(seeds)]
    violations = [{"seed": result.seed, "violation": words} for result in results for words in result.violations]
    if trace and not as_json:
        for result in results:
            for line in result.world.trace.lines:
                print(f"{line.at_ms / 1000:9.3f} s  {line.node:<4} {line.topic:<10} {line.text}")
    if as_json:
        print_json(
            {
                "scenario": scenario,
                "seeds": len(results),
                "violations": violations,
                "seconds": sum(result.seconds for result in results),
                "events": sum(result.events for result in results),
                "hashes": {str(result.seed): result.hash for result in results},
            }
        )
    else:
        print(f"{scenario}: {len(results)} seeds, {sum(r.events for r in results)} events, {len(violations)} violations")
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


def _range(text: str) -> range:
    match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", text)
    if match is None:
        raise ValueError(f"--seeds {text!r}: write one number, or a range like 1-300")
    first, last = int(match[1]), int(match[2] or match[1])
    if not first <= last < first + MAX_SEEDS:
        raise ValueError(f"--seeds {text!r}: a range of 1 to {MAX_SEEDS} seeds, lowest first")
    return range(first, last + 1)
