"""Invariants of DESIGN section 4, looked at from outside the nodes, in true time; as many as have something to check yet."""

import contextlib
from collections import Counter
from collections.abc import Callable

from cloudisense.agent.entries import Failed, Help, Intent, Outcome
from cloudisense.agent.ledger import parse_body
from cloudisense.agent.plan import Plan
from cloudisense.keys.capability import Capability
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.feed import Entry
from cloudisense.sim.world import SimNode, World


def h1_capability(world: World) -> list[str]:
    """H1: no step runs without a capability for exactly its plan: what was measured and asked for, or the rest of it."""
    problems: list[str] = []
    for sim in world.honest:
        bodies = _bodies(_own(sim))
        granted = {body.nonce: body for body in bodies if isinstance(body, Capability)}
        candidates = {
            (body.incident, c.steps[i:]) for body in bodies if isinstance(body, Help) for c in body.candidates for i in range(len(c.steps))
        }
        steps = {Plan(sim.member.identity.id, incident, rest, "", "").hash: rest for incident, rest in candidates}
        intents = {(body.nonce, body.index): body.step for body in bodies if isinstance(body, Intent)}
        for nonce, index in [(nonce, index) for host, nonce, index in world.ran if host == sim.name and sim.node is not None]:
            plan = steps.get(granted[nonce].plan_hash, ()) if nonce in granted else ()
            if plan[index : index + 1] != (intents.get((nonce, index)),):
                problems.append(f"{sim.name} ran step {index} of {nonce.hex()} without a capability for it")
    return problems


def h2_no_step_twice(world: World) -> list[str]:
    """H2: a step runs at most once, over any crash."""
    return [f"{host} ran step {step} of {nonce.hex()} {n} times" for (host, nonce, step), n in sorted(Counter(world.ran).items()) if n > 1]


def h3_canaries(world: World) -> list[str]:
    """H3: no canary is ever harmed."""
    return [
        f"{sim.name} lost canaries: {sim.host.canaries()} left" for sim in world.honest if sim.host.canaries() != world.canaries[sim.name]
    ]


def h4_intent_and_outcome(world: World) -> list[str]:
    """H4: every action has its intent before it in a feed, and its outcome after it."""
    problems: list[str] = []
    for sim in world.honest:
        if sim.node is None:
            continue
        own = _own(sim)
        intents, outcomes = _steps(own, Intent), _steps(own, Outcome)
        ran = {(nonce, step) for host, nonce, step in world.ran if host == sim.name}
        problems += [f"{sim.name} ran {key} without intent" for key in sorted(ran - intents)]
        problems += [f"{sim.name} has no outcome for {key}" for key in sorted(ran - outcomes)]
    return problems


def h5_incidents_end(world: World) -> list[str]:
    """H5: an incident ends, everywhere alike; no fix repeats after it failed verification."""
    problems: list[str] = []
    for sim in world.honest:
        failed: set[tuple[str, str]] = set()
        for body in _bodies(_own(sim)):
            if isinstance(body, Failed):
                failed.add((body.incident, body.signature))
            elif isinstance(body, Help):
                again = [c.signature for c in body.candidates if (body.incident, c.signature) in failed]
                problems += [f"{sim.name} asks for {signature} again, which failed" for signature in again]
        for incident in sim.node.agent.incidents.values() if sim.node is not None else ():
            if not incident.over:
                problems.append(f"{sim.name} still has incident {incident.id} {incident.state}")
    return problems


def m3_agreement(world: World) -> list[str]:
    """M3: all live nodes agree on members and on the feeds, with what is not on disk yet: a vector would pass over that."""
    liars = {sim.member.identity.id for sim in world.nodes if sim.byzantine}  # a forked feed is kept as it was found
    views = {
        sim.name: (
            sorted([*sim.node.mesh.present(), sim.member.identity.id]),
            [entry.reference for entry in sim.node.mesh.feeds.all() if entry.node not in liars],
        )
        for sim in world.honest
        if sim.node
    }
    first = next(iter(views.values()), None)
    return [f"{name} sees another mesh than the first node" for name, view in views.items() if view != first]


def f1_no_fork(world: World) -> list[str]:
    """F1: two nodes never hold different entries for one place in a feed."""
    seen: dict[object, bytes] = {}
    problems: list[str] = []
    for sim in world.honest:
        if sim.node is None:
            continue
        forgers = sim.node.mesh.forgers
        for entry in (e for e in sim.node.mesh.feeds.all() if e.node not in forgers):
            if seen.setdefault(entry.reference, entry.hash) != entry.hash:
                problems.append(f"{sim.name} holds another entry {entry.reference.number} of {entry.node.hex()[:8]}")
    return problems


def _own(sim: SimNode) -> list[Entry]:
    """What a node has said, in order."""
    return [e for e in sim.node.mesh.feeds.all() if e.node == sim.member.identity.id] if sim.node is not None else []


def _bodies(entries: list[Entry]) -> list[object]:
    """What they say; junk, as an adversary may write it, says nothing."""
    bodies: list[object] = []
    for entry in entries:
        with contextlib.suppress(RemoteProtocolError):
            bodies.append(parse_body(entry))
    return bodies


def _steps(entries: list[Entry], kind: type[Intent] | type[Outcome]) -> set[tuple[bytes, int]]:
    return {(body.nonce, body.index) for body in _bodies(entries) if isinstance(body, kind)}


CHECKERS: dict[str, Callable[[World], list[str]]] = {
    "H1": h1_capability,
    "H2": h2_no_step_twice,
    "H3": h3_canaries,
    "H4": h4_intent_and_outcome,
    "H5": h5_incidents_end,
    "M3": m3_agreement,
    "F1": f1_no_fork,
}


def violations(world: World) -> list[str]:
    """Everything that is wrong in this world now, with the invariant's name."""
    return [f"{name}: {problem}" for name, check in CHECKERS.items() for problem in check(world)]
