"""A member without the role, for every kind of entry, of message and of question: what each role may, in one table.

Datagrams between members (probes, gossip, repair) need no role but a valid certificate; that a stranger's reach nobody is in
``test_datagrams``. What acts on a host needs one, and is tried here through the whole node, mesh and agent.
"""

from typing import Any

import pytest

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.coordinate import Case
from cloudisense.agent.core import Agent
from cloudisense.agent.detect import RULES
from cloudisense.agent.entries import KIND_OF, Alert, Closed, Failed, Help, Intent, Offer, Outcome, StepRequest
from cloudisense.agent.incident import incident_id, incident_key
from cloudisense.agent.plan import Candidate, Measured, Plan, Step
from cloudisense.agent.settings import Settings
from cloudisense.keys.capability import Capability
from cloudisense.keys.certificate import ROLES, Role
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.events import EntryArrived
from cloudisense.mesh.feed import GENESIS, parse_entry
from cloudisense.mesh.wire import Push

Arena = Any
SETS: tuple[tuple[Role, ...], ...] = (
    *((role,) for role in ROLES),
    ("member", "actor"),
    ("member", "witness"),
    ("member", "actor", "witness"),
    ("member", "operator"),
)
KINDS = ("alert", "help", "offer", "capability", "intent", "outcome", "failed", "closed", "escalation", "of a later version")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("roles", SETS, ids="+".join)
def test_who_may_append(arena, roles: tuple[Role, ...], kind: str) -> None:
    """Control: only ``member`` has a feed (mesh/delivery.py, ``_take``), whoever carries the entry and whatever its kind."""
    two = arena("anna", "bert", roles={"bert": roles})
    entry = two["bert"].mesh.append(kind, b"", two.now())
    two.say("bert", "anna", Push((entry.data,), True))
    two.run(1)
    assert [e.kind for e in two["anna"].arrived] == ([kind] if "member" in roles else [])


class Fixture:
    """Anna's agent beside bert, who has ``roles``, and an incident of ``subject`` that asks for help."""

    def __init__(self, arena: Any, roles: tuple[Role, ...], subject: str) -> None:
        self.arena = arena("anna", "bert", "carl", roles={"bert": roles})
        now = self.arena.now()
        self.agent = Agent(self.arena["anna"].mesh, bytes(16), Catalogue((), ()), Settings(), HashRng("agent"))
        self.step = Step("clean_cache", bytes(32), (("path", "/x"),))
        self.candidate = Candidate("clean_cache", "Empty the cache.", (self.step,), Measured(10, 0, 1, "x"), "reversible")
        self.rule = RULES[0]
        self.subject = self.arena[subject]
        key = incident_key(self.subject.id, "disk_full", "/x")
        self.id = incident_id(key, now.wall_ms)
        self.say(subject, Alert(self.id, key, "disk_full", "/x", "disk_full", "full", 100, 99, 10, 1))
        self.say(subject, Help(self.id, 1, 10, 0, (self.candidate,)))

    @property
    def incident(self) -> Any:
        return self.agent.incidents[self.id]

    def say(self, name: str, body: Any) -> None:
        """``name``'s entry arrives at anna's agent, durable."""
        mesh = self.arena[name].mesh
        kind = "capability" if isinstance(body, Capability) else KIND_OF[type(body)]
        entry = mesh.append(kind, pack(body), self.arena.now())
        if entry.node == self.arena["anna"].id:  # our own coordinator is not the one that says it here
            self.agent._ledger.fold(entry, body)
        else:
            self.agent.handle_news(EntryArrived(entry), self.arena.now())

    def plan(self) -> Plan:
        return Plan(self.subject.id, self.id, (self.step,), "clean_cache", "because")

    def offer(self) -> Offer:
        return Offer(self.id, 1, self.plan(), "rules", "", 0.5, 0, 0)

    def capability(self, holder: str, gate: bytes) -> Capability:
        return Capability(
            b"n" * 16, self.id, self.plan().hash, self.arena[holder].id, gate, bytes(16), 1, self.arena.now().boot_ns // 1_000_000, 5000
        )


@pytest.mark.parametrize("subject", ["carl", "anna", "bert"])
@pytest.mark.parametrize("roles", SETS, ids="+".join)
def test_who_may_offer(arena, roles: tuple[Role, ...], subject: str) -> None:
    """Control: ``Speech.may_offer``: an actor and no witness, for others; anybody for itself."""
    world = Fixture(arena, roles, subject)
    world.agent.poll_effects()
    world.say("bert", world.offer())
    allowed = subject == "bert" or ("actor" in roles and "witness" not in roles)
    assert (world.arena["bert"].id in world.incident.offers) == allowed
    assert world.arena["anna"].mesh.dropped["offer without the role"] == (not allowed)


@pytest.mark.parametrize("roles", SETS, ids="+".join)
def test_who_offers_by_itself(arena, roles: tuple[Role, ...]) -> None:
    """Our own agent knows its own roles, too: a witness never plans for others."""
    two = arena("anna", "bert", roles={"anna": roles})
    agent = Agent(two["anna"].mesh, bytes(16), Catalogue((), ()), Settings(), HashRng("agent"))
    now = two.now()
    key = incident_key(two["bert"].id, "disk_full", "/x")
    ident = incident_id(key, now.wall_ms)
    step = Step("clean_cache", bytes(32), (("path", "/x"),))
    candidate = Candidate("clean_cache", "Empty the cache.", (step,), Measured(10, 0, 1, "x"), "reversible")
    for body in (Alert(ident, key, "disk_full", "/x", "disk_full", "full", 100, 99, 10, 1), Help(ident, 1, 10, 0, (candidate,))):
        agent.handle_news(EntryArrived(two["bert"].mesh.append(KIND_OF[type(body)], pack(body), now)), now)
    said = [entry.kind for entry in two["anna"].mesh.feeds.all() if entry.node == two["anna"].id]
    assert said == (["offer"] if "actor" in roles and "witness" not in roles else [])


@pytest.mark.parametrize("kind", ["help", "capability", "intent", "outcome", "failed", "closed"])
@pytest.mark.parametrize("roles", [("member",), ("member", "actor"), ("member", "operator", "issuer"), ROLES], ids="+".join)
def test_what_only_the_subject_may_say(arena, roles: tuple[Role, ...], kind: str) -> None:
    """Control: ``Incident.apply``. No role makes bert the subject of carl's trouble."""
    world = Fixture(arena, roles, "carl")
    world.say("anna", world.offer())
    nonce = b"n" * 16
    bodies = {
        "help": Help(world.id, 2, 10, 0, (world.candidate,)),
        "capability": world.capability("bert", world.arena["carl"].id),
        "intent": Intent(world.id, nonce, 0, world.step),
        "outcome": Outcome(world.id, nonce, 0, "done", "", 1),
        "failed": Failed(world.id, "clean_cache", "rules", "no"),
        "closed": Closed(world.id, "resolved", "x", "disk_full", "clean_cache", "rules", b"", b"", 1, 100, 1),
    }
    before = (world.incident.state, world.incident.help, world.incident.capability, list(world.incident.failed))
    world.say("bert", bodies[kind])
    assert (world.incident.state, world.incident.help, world.incident.capability, list(world.incident.failed)) == before


@pytest.mark.parametrize("roles", SETS, ids="+".join)
def test_who_may_ask_for_a_step(arena, roles: tuple[Role, ...]) -> None:
    """Control: ``Coordinator.step_requested``: the holder of the capability, and no longer than its roles allow it."""
    world = Fixture(arena, roles, "anna")
    coordinator, feeds = world.agent._coordinator, world.arena["anna"].mesh.feeds
    world.say("carl", world.offer())
    world.say("anna", world.capability("bert", world.subject.id))
    coordinator._cases[world.id] = Case(world.rule, 1, nonce=b"n" * 16, plan=world.plan())
    number = len(feeds.all())
    request = StepRequest(world.id, b"n" * 16, 0, pack(world.plan()))
    for name in ("carl", "bert"):
        world.agent._direct(world.arena[name].id, request, world.arena.now())
        allowed = name == "bert" and "actor" in roles and "witness" not in roles
        assert len(feeds.all()) == number + allowed


@pytest.mark.parametrize("number", ["generation", "number", "wall_ms"])
@pytest.mark.parametrize("value", [-1, 2**53, 2**63, 2**64 - 1])
def test_numbers_that_no_table_holds(arena, number: str, value: int) -> None:
    """Control: ``parse_entry``. One such entry would stop every node's writer for good."""
    from cloudisense.keys.envelope import seal

    two = arena("anna", "bert")
    body = {"generation": 7, "number": 0, "previous": GENESIS, "wall_ms": 1, "kind": "alert", "body": b""} | {number: value}
    data = seal(two["bert"].member.identity, "entry", two.keys.mesh_id, pack(list(body.values())))
    with pytest.raises(RemoteProtocolError, match="malformed entry"):
        parse_entry(data, two.keys.mesh_id, 8192)
    two.say("bert", "anna", Push((data,), True))
    assert two["anna"].mesh.feeds.vector() == ()
