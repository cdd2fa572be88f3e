"""The rows of the benchmark: what is done to a mesh, and the figure that is read off.

Every row leaves the mesh whole again. A figure of ``None`` means that it did not happen in time; the detail says more.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.hosts import wait_for
from benchmarks.hosts.host import signal_all
from benchmarks.mesh.peer import ALIVE, GONE, KNOWN_GONE, Peer, Seat, now_ns

NS_PER_S = 1e9
DETECT_S = 60.0
JOIN_S = 150.0
"""Above serf's push-pull at N=50 (60 s), which brings what its gossip missed."""
STOP_S = (2, 5, 8, 15)
STOPPED = 3
EVENT_GRACE_S = 4.0
BURST = 50


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often. ``quick`` is for finding out, not for reporting."""

    kills: int = 7
    events: int = 300
    events_per_s: float = 15.0
    partition_s: float = 60.0
    flip_s: float = 20.0
    flips: int = 3
    idle_s: float = 35.0


QUICK = Effort(kills=3, events=60, partition_s=20.0, idle_s=15.0)


@dataclass(slots=True)
class Figure:
    """One measured value of one mesh; ``detail`` explains it."""

    row: str
    value: float | None
    detail: dict[str, Any] = field(default_factory=dict[str, Any])


Measure = Callable[[Peer, Effort], list[Figure]]


def seconds(began_ns: int, at_ns: int) -> float:
    """From one reading of the clock to another."""
    return round((at_ns - began_ns) / NS_PER_S, 3)


def median(values: list[float | None]) -> float | None:
    """The median, where what never happened counts as infinitely late."""
    if not values:
        return None
    middle = statistics.median_high([float("inf") if value is None else value for value in values])
    return None if middle == float("inf") else round(middle, 3)


# -- one node goes -----------------------------------------------------------------------------------------------------


def gone(mesh: Peer, effort: Effort) -> list[Figure]:
    """A host is cut off whole; until every other node has given it up."""
    return [_silenced(mesh, effort, "gone", lambda seat: mesh.world.drop_all(seat.host), GONE)]


def killed(mesh: Peer, effort: Effort) -> list[Figure]:
    """SIGKILL to the node's process; its host is up and refuses its port; until every other node knows, by whatever word."""
    return [_silenced(mesh, effort, "killed", lambda seat: signal_all([_pid(seat)], 9), KNOWN_GONE)]


def _silenced(mesh: Peer, effort: Effort, row: str, silence: Callable[[Seat], None], words: frozenset[str]) -> Figure:
    took: list[float | None] = []
    said: dict[str, int] = {}
    accused: list[str] = []
    whole = True
    for _ in range(effort.kills):
        victim = mesh.rng.choice(list(mesh.seats.values())[1:])
        others = mesh.others(victim.host.name)
        began = now_ns()
        silence(victim)
        known = wait_for(_all_say(others, victim.host.name, words), DETECT_S, 0.005)
        sights = mesh.since(began)
        took.append(_last(sights, {seat.host.name for seat in others}, victim.host.name, words, began) if known else None)
        for seat in others:
            state = seat.view.get(victim.host.name, "unknown")
            said[state] = said.get(state, 0) + 1
        mesh.stop([victim], kill=True)
        mesh.world.heal(victim.host)
        mesh.start([victim])
        whole &= mesh.settle()
        accused += [
            f"{s.observer}: {s.subject} {s.state}"
            for s in mesh.since(began)
            if s.state in GONE and s.subject != victim.host.name and s.observer != victim.host.name
        ]
    return Figure(row, median(took), {"each_s": took, "said": said, "falsely_failed": len(accused), "who": accused[:5], "came_back": whole})


def _all_say(seats: list[Seat], subject: str, words: frozenset[str]) -> Callable[[], bool]:
    return lambda: all(seat.view.get(subject) in words for seat in seats)


def _last(sights: list[Any], observers: set[str], subject: str, words: frozenset[str], began: int) -> float:
    first: dict[str, int] = {}
    for sight in sights:
        if sight.subject == subject and sight.state in words and sight.observer in observers:
            first.setdefault(sight.observer, sight.at_ns)
    return seconds(began, max(first.values()))


def _pid(seat: Seat) -> int:
    assert seat.process is not None
    return seat.process.pid


# -- some nodes stop for a while ---------------------------------------------------------------------------------------


def stopped(mesh: Peer, effort: Effort) -> list[Figure]:
    """SIGSTOP to three nodes for 2, 5, 8 and 15 s: who is called failed, and by how many views."""
    del effort
    healthy_failed, stopped_failed, detail = 0, 0, {}
    for length in STOP_S:
        victims = mesh.rng.sample(list(mesh.seats.values())[1:], STOPPED)
        names = {seat.host.name for seat in victims}
        began = now_ns()
        mesh.world.freeze(*(_pid(seat) for seat in victims))
        time.sleep(length)
        mesh.world.thaw(*(_pid(seat) for seat in victims))
        whole = mesh.settle()
        sights = mesh.since(began)
        falsely = [s for s in sights if s.subject not in names and s.state in GONE]
        states = {name: sorted({s.state for s in sights if s.subject == name and s.observer not in names} - {ALIVE}) for name in names}
        healthy_failed += len({s.subject for s in falsely})
        stopped_failed += sum(1 for found in states.values() if GONE & set(found))
        detail[f"{length} s"] = {
            "healthy_called_failed": len({s.subject for s in falsely}),
            "by_stopped_nodes": len({s.subject for s in falsely if s.observer in names}),
            "views": len(falsely),
            "stopped": dict(sorted(states.items())),
            "whole_again": whole,
        }
    return [Figure("stopped_healthy", healthy_failed, detail), Figure("stopped_dead", stopped_failed, {"of": STOPPED * len(STOP_S)})]


# -- events ------------------------------------------------------------------------------------------------------------


def events(mesh: Peer, effort: Effort) -> list[Figure]:
    """Small events from random nodes at a steady rate, then a burst of 50."""
    seats = list(mesh.seats.values())
    sent: dict[str, int] = {}
    start = time.monotonic()
    for number in range(effort.events):
        time.sleep(max(0.0, start + number / effort.events_per_s - time.monotonic()))
        name = f"e{time.time_ns():x}-{number}"
        sent[name] = now_ns()
        mesh.say(mesh.rng.choice(seats), name)
    time.sleep(EVENT_GRACE_S)
    took: list[float | None] = []
    late = 0
    for name, began in sent.items():
        heard = [seat.heard.get(name) for seat in seats]
        full = [at for at in heard if at is not None]
        whole = len(full) == len(seats)
        took.append(seconds(began, max(full)) if whole else None)
        late += not whole or max(full) - began > EVENT_GRACE_S * NS_PER_S
    done = sorted(value for value in took if value is not None)
    detail = {"events": len(sent), "p99_s": done[int(len(done) * 0.99)] if done else None, "worst_s": done[-1] if done else None}
    return [
        Figure("event", median(took), detail),
        Figure("event_missing", round(100 * late / len(sent), 2), {"late": late}),
        _burst(mesh, seats),
    ]


def _burst(mesh: Peer, seats: list[Seat]) -> Figure:
    names = [f"b{time.time_ns():x}-{number}" for number in range(BURST)]
    began = now_ns()
    refused = 0
    for name in names:
        try:
            mesh.say(mesh.rng.choice(seats), name)
        except (OSError, RuntimeError):
            refused += 1
    asked = seconds(began, now_ns())

    def missing() -> int:
        return sum(1 for name in names if not all(name in seat.heard for seat in seats))

    wait_for(lambda: not missing(), EVENT_GRACE_S, 0.02)
    after = missing()
    wait_for(lambda: not missing(), DETECT_S, 0.1)
    full = [seat.heard[name] for name in names for seat in seats if name in seat.heard]
    detail = {
        "asked_s": asked,
        "refused": refused,
        "missing_later": missing(),
        "all_there_s": seconds(began, max(full)) if not missing() else None,
    }
    return Figure("burst_missing", after, detail)


# -- cuts --------------------------------------------------------------------------------------------------------------


def flip(mesh: Peer, effort: Effort) -> list[Figure]:
    """Three times: one node hears nobody for 20 s (the others hear it), then all is well for 20 s. Events at the healthy nodes."""
    victim = list(mesh.seats.values())[-1]
    others = mesh.others(victim.host.name)
    began = now_ns()
    for _ in range(effort.flips):
        mesh.world.partition([seat.host for seat in others], victim.host, one_way=True)
        time.sleep(effort.flip_s)
        mesh.world.heal()
        time.sleep(effort.flip_s)
    whole = mesh.settle()
    sights = mesh.since(began)
    failed, back, own = 0, 0, 0
    last: dict[tuple[str, str], str] = {}
    for sight in sights:
        key = (sight.observer, sight.subject)
        if sight.observer == victim.host.name:
            own += sight.state in GONE
            continue
        failed += sight.state in GONE
        back += sight.state == ALIVE and last.get(key) in GONE
        if sight.state == ALIVE or sight.state in GONE:
            last[key] = sight.state
    healthy = sum(1 for s in sights if s.state in GONE and victim.host.name not in (s.observer, s.subject))
    detail = {"fail": failed, "rejoin": back, "healthy_failed": healthy, "fail_at_the_deaf_node": own, "whole_again": whole}
    return [Figure("flip_fail", failed, detail), Figure("flip_rejoin", back)]


def partition(mesh: Peer, effort: Effort) -> list[Figure]:
    """Half against half: until every node knows that the whole other half does not answer; then until all see all again."""
    seats = list(mesh.seats.values())
    half = len(seats) // 2
    sides = (seats[:half], seats[half:])
    names = tuple({seat.host.name for seat in side} for side in sides)
    began = now_ns()
    mesh.world.partition([seat.host for seat in sides[0]], [seat.host for seat in sides[1]])

    def split() -> bool:
        return all(
            all(seat.view.get(name) in KNOWN_GONE for name in other)
            for side, other in zip(sides, reversed(names), strict=True)
            for seat in side
        )

    known = wait_for(split, effort.partition_s, 0.01)
    detected = seconds(began, max(sight.at_ns for sight in mesh.since(began))) if known else None
    time.sleep(max(0.0, effort.partition_s - seconds(began, now_ns())))
    cross = [s for s in mesh.since(began) if (s.observer in names[0]) != (s.subject in names[0])]
    words = sorted({s.state for s in cross})
    same = [s for s in mesh.since(began) if s.state in GONE and (s.observer in names[0]) == (s.subject in names[0])]
    mesh.world.heal()
    healing = now_ns()
    whole = wait_for(mesh.whole, 90.0, 0.005)
    healed = seconds(healing, max((sight.at_ns for sight in mesh.since(healing)), default=healing)) if whole else None
    if not whole:
        mesh.settle(0.1)
    detail = {"words": words, "own_side_failed": len(same), "lasted_s": effort.partition_s}
    return [Figure("partition_detected", detected, detail), Figure("partition_healed", healed)]


def join(mesh: Peer, effort: Effort) -> list[Figure]:
    """All processes are up and alone; until all see all."""
    del effort
    mesh.stop(kill=True)
    mesh.start(mesh.seats.values(), joined=False)
    time.sleep(2.0)  # let a node's first seconds pass: it is up, as ANCHORS says
    began = mesh.meet()
    whole = wait_for(mesh.whole, JOIN_S, 0.002)
    last = max((sight.at_ns for sight in mesh.since(began)), default=began)
    detail = {"what": mesh.join_means()}
    if not whole:
        detail["strangers"] = mesh.strangers()
        mesh.settle(0.1)
    return [Figure("join", seconds(began, last) if whole else None, detail)]
