"""A member that lies, with everything that its own key lets it say; and strangers that only shout (DESIGN section 3.5)."""

import contextlib
import random
from collections.abc import Callable

from cloudisense.agent.effects import RunStep
from cloudisense.agent.entries import KIND_OF, Body, Escalation, Offer, StepRequest
from cloudisense.agent.incident import Incident
from cloudisense.agent.node import Node
from cloudisense.agent.plan import Plan, Step
from cloudisense.keys.encoding import pack, unpack
from cloudisense.keys.envelope import seal
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.effects import Address
from cloudisense.mesh.feed import Feeds, OverQuota
from cloudisense.mesh.hello import PREFIX
from cloudisense.mesh.member import Suspect
from cloudisense.mesh.wire import Claims, Direct, Got, Message, PingRequest, Push
from cloudisense.sim.world import SimNode, World, flipped

FLOOD = 150
"""Messages of one flood."""


class Byzantine:
    """One member whose operator is the enemy. ``lie`` picks one of its ways."""

    def __init__(self, world: World, sim: SimNode, rng: random.Random) -> None:
        self.world, self.sim, self.rng = world, sim, rng
        self._ways: tuple[Callable[[Node, SimNode], object], ...] = (
            self.accuse, self.forge, self.fork, self.offer, self.cry_wolf, self.ask_steps, self.acknowledge, self.flood, self.keep_mum,
        )  # fmt: skip

    def lie(self) -> str:
        """Once, to somebody; in which way."""
        way = self.rng.choice(self._ways)
        victim = self.rng.choice([sim for sim in self.world.nodes if sim is not self.sim])
        self.world.command(self.sim, lambda node: way(node, victim))
        return way.__name__

    def _send(self, node: Node, victim: SimNode, message: Message) -> None:
        if victim.member.identity.id in node.mesh.members:
            node.mesh._membership.send(victim.member.identity.id, message)

    def _tell_all(self, node: Node, message: Message) -> None:
        for sim in self.world.nodes:
            self._send(node, sim, message)

    def accuse(self, node: Node, victim: SimNode) -> None:
        """A healthy member, in our own name."""
        member = node.mesh.members.get(victim.member.identity.id)
        if member is not None:
            kind = self.rng.choice(("silent", "refused", "mute"))
            claim = Suspect(member.node, member.alive.incarnation, node.mesh.id, kind)
            self._tell_all(node, Claims(((node.mesh._context.seal("suspect", claim), b""),)))

    def forge(self, node: Node, victim: SimNode) -> None:
        """Claims in another's name, which nobody can sign."""
        member = node.mesh.members.get(victim.member.identity.id)
        if member is None:
            return
        third = self.rng.choice([sim for sim in self.world.nodes if sim is not self.sim])
        lies = (
            (seal(self.sim.member.identity, "left", node.mesh.mesh_id, pack([member.node, member.alive.incarnation])), b""),
            (node.mesh._context.seal("suspect", Suspect(third.member.identity.id, 1, member.node, "silent")), b""),
            (flipped(member.claim, self.rng), member.certificate_data),
        )
        self._tell_all(node, Claims(lies))

    def fork(self, node: Node, victim: SimNode) -> None:
        """Two entries for one place: one for each half of the mesh."""
        identity = self.sim.member.identity
        generation = node.mesh._delivery.generation + self.rng.randrange(2)
        for sim in self.world.nodes:
            word = str(self.rng.randrange(2)).encode()
            entry = Feeds(node.mesh.mesh_id, node.mesh._limits).append(identity, generation, 0, "note", pack([word.decode()]))
            self._send(node, sim, Push((entry.data,), True))

    def _incident(self, node: Node) -> Incident | None:
        known = sorted(node.agent.incidents.values(), key=lambda i: i.id)
        return self.rng.choice(known) if known else None

    def _say(self, node: Node, body: Body) -> None:
        with contextlib.suppress(OverQuota):
            node.mesh.append(KIND_OF[type(body)], pack(body), self.sim.clock.instant())

    def offer(self, node: Node, victim: SimNode) -> None:
        """A plan that nobody measured, or one that looks as if memory knew it."""
        incident = self._incident(node)
        if incident is None or incident.help is None or not incident.help.candidates:
            return
        candidate = self.rng.choice(incident.help.candidates)
        steps = self.rng.choice((candidate.steps, candidate.steps * 2, tuple(_elsewhere(step) for step in candidate.steps)))
        plan = Plan(incident.subject, incident.id, steps, candidate.signature, "trust me")
        self._say(node, Offer(incident.id, incident.help.round, plan, "memory", "", 1.0, 0, 0))

    def cry_wolf(self, node: Node, victim: SimNode) -> None:
        """Another's incident is hopeless, says this one."""
        incident = self._incident(node)
        if incident is not None:
            word = incident.last_word
            self._say(node, Escalation(incident.id, "wolf", word.generation, word.number))

    def ask_steps(self, node: Node, victim: SimNode) -> None:
        """Steps of whoever's capability, in any order, as often as it likes."""
        incident = self._incident(node)
        if incident is None or incident.capability is None or incident.help is None or not incident.help.candidates:
            return
        candidate = self.rng.choice(incident.help.candidates)
        plan = Plan(incident.subject, incident.id, candidate.steps, candidate.signature, "")
        request = StepRequest(incident.id, incident.capability.nonce, self.rng.randrange(3), pack(plan))
        subject = next(sim for sim in self.world.nodes if sim.member.identity.id == incident.subject)
        self._send(node, subject, Direct(pack(request)))

    def acknowledge(self, node: Node, victim: SimNode) -> None:
        """Entries that it never had."""
        self._send(node, victim, Got(tuple((victim.member.identity.id, g, n) for g, n in ((1 << 20, 0), (1 << 21, 3)))))

    def keep_mum(self, node: Node, victim: SimNode) -> None:
        """From now on, until its next start: it relays no probe and passes nothing on."""
        node.mesh._handlers[PingRequest] = lambda peer, message, now: None
        node.mesh._membership.ride_along = lambda beside=(): ()

    def flood(self, node: Node, victim: SimNode) -> None:
        """A member that has found a loop."""
        for _ in range(FLOOD):
            self._send(node, victim, Claims(((self.rng.randbytes(40), b""),)))


def replay_steps(world: World, sim: SimNode, rng: random.Random) -> None:
    """The agent of a host is the thief's: it asks the guard again for what it was once allowed, or for a bit more."""
    if not sim.asked:
        return
    old = rng.choice(sim.asked)
    plan = old.plan
    if rng.random() < 0.5:
        try:
            known = unpack(plan, Plan)
        except RemoteProtocolError:
            return
        # Something that the catalogue allows, so that nothing but the capability stands against it.
        incidents = sim.node.agent.incidents.values() if sim.node is not None else ()
        others = sorted({c.steps for i in incidents if i.help for c in i.help.candidates if c.steps != known.steps}, key=repr)
        steps = rng.choice(others) if others else tuple(_elsewhere(step) for step in known.steps)
        plan = pack(Plan(known.gate, known.incident, steps, known.signature, known.reasoning))
    world.run_step(sim, RunStep(1 << 40, old.requester, old.capability, plan, old.index + rng.choice((0, 0, 2))))


def shout(world: World, rng: random.Random, heard: list[tuple[Address, Address, bytes]]) -> None:
    """A flood of a stranger: junk, broken hellos, and what it has heard pass by."""
    target = rng.choice(world.nodes).address
    source = (f"192.0.2.{rng.randrange(1, 250)}", rng.randrange(1024, 65536))
    for _ in range(FLOOD):
        kind = rng.randrange(3)
        if kind == 0 or not heard:
            world.deliver(source, target, rng.randbytes(rng.randrange(1, 200)))
        elif kind == 1:
            world.deliver(source, target, PREFIX + flipped(rng.choice(heard)[2], rng)[2:])
        else:
            sender, receiver, data = rng.choice(heard)
            world.deliver(sender, receiver, data)


def _elsewhere(step: Step) -> Step:
    """The same action on the folder that holds the canaries."""
    return Step(step.action, step.definition, tuple((k, "/vol/data" if k == "path" else v) for k, v in step.values))
