"""Invariants of DESIGN section 4, looked at from outside the nodes, in true time; as many as have something to check yet."""

from collections import Counter
from collections.abc import Callable

from cloudisense.agent.entries import Intent, Outcome
from cloudisense.agent.ledger import parse_body
from cloudisense.mesh.feed import Entry
from cloudisense.sim.world import World


def h2_no_step_twice(world: World) -> list[str]:
    """H2: a step runs at most once, over any crash."""
    return [f"{host} ran step {step} of {nonce.hex()} {n} times" for (host, nonce, step), n in sorted(Counter(world.ran).items()) if n > 1]


def h3_canaries(world: World) -> list[str]:
    """H3: no canary is ever harmed."""
    return [
        f"{sim.name} lost canaries: {sim.host.canaries()} left" for sim in world.nodes if sim.host.canaries() != world.canaries[sim.name]
    ]


def h4_intent_and_outcome(world: World) -> list[str]:
    """H4: every action has its intent before it in a feed, and its outcome after it."""
    problems: list[str] = []
    for sim in world.nodes:
        if sim.node is None:
            continue
        own = [e for e in sim.node.mesh.feeds.all() if e.node == sim.member.identity.id]
        intents, outcomes = _steps(own, Intent), _steps(own, Outcome)
        ran = {(nonce, step) for host, nonce, step in world.ran if host == sim.name}
        problems += [f"{sim.name} ran {key} without intent" for key in sorted(ran - intents)]
        problems += [f"{sim.name} has no outcome for {key}" for key in sorted(ran - outcomes)]
    return problems


def h5_incidents_end(world: World) -> list[str]:
    """H5: an incident ends, everywhere alike."""
    problems: list[str] = []
    for sim in world.nodes:
        for incident in sim.node.agent.incidents.values() if sim.node is not None else ():
            if not incident.ended:
                problems.append(f"{sim.name} still has incident {incident.id} {incident.state}")
    return problems


def m3_agreement(world: World) -> list[str]:
    """M3: all live nodes agree on members and on the feeds."""
    views = {
        sim.name: (sorted([*sim.node.mesh.present(), sim.member.identity.id]), sim.node.mesh.feeds.vector())
        for sim in world.nodes
        if sim.node
    }
    first = next(iter(views.values()), None)
    return [f"{name} sees another mesh than the first node" for name, view in views.items() if view != first]


def f1_no_fork(world: World) -> list[str]:
    """F1: two nodes never hold different entries for one place in a feed."""
    seen: dict[object, bytes] = {}
    problems: list[str] = []
    for sim in world.nodes:
        if sim.node is None:
            continue
        forgers = sim.node.mesh.forgers
        for entry in (e for e in sim.node.mesh.feeds.all() if e.node not in forgers):
            if seen.setdefault(entry.reference, entry.hash) != entry.hash:
                problems.append(f"{sim.name} holds another entry {entry.reference.number} of {entry.node.hex()[:8]}")
    return problems


def _steps(entries: list[Entry], kind: type[Intent] | type[Outcome]) -> set[tuple[bytes, int]]:
    bodies = [parse_body(entry) for entry in entries if entry.kind in ("intent", "outcome")]
    return {(body.nonce, body.index) for body in bodies if isinstance(body, kind)}


CHECKERS: dict[str, Callable[[World], list[str]]] = {
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
