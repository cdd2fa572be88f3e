"""One history of the lease's world, from its seed: faults, then healing, then 3 D in which every key must find a holder."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.epoch import Epoch, epoch_of, sign_forced
from cloudisense.sim.lease_faults import D_NS, air, draw
from cloudisense.sim.lease_host import PPM, LeaseHost, Stamps
from cloudisense.sim.leases import OPERATOR, LeaseWorld

LIVE_LEASES = 3
CHANGES = 3


@dataclass(frozen=True, slots=True)
class History:
    """One seed's outcome. ``hash`` is the trace's; ``seconds`` is virtual time."""

    seed: int
    violations: list[str]
    seconds: float
    events: int
    hash: str
    coverage: Counter[str]
    lines: list[str]


def run(seed: int, trace: bool = False) -> History:
    """One history; the same for the same seed."""
    rng = random.Random(seed)
    faults = draw(rng)
    lines: list[str] = []
    world = LeaseWorld(rng, faults, air(rng, faults), lines.append if trace else None)
    if trace:
        on = [name for name in faults.__slots__ if getattr(faults, name)]
        lines.append(
            f"D 1 s, rho {world.rho} ppm, {len(world.roster.voters)} voters, wanted by {world.candidates}; faults: {', '.join(on)}"
        )
    _Plot(world).play()
    checks = world.checks
    world.coverage["leases taken"] += checks.acquired
    world.coverage["acts admitted"] += checks.admitted
    world.coverage["rounds granted twice"] += len(checks.clashes)
    world.note(-1, f"{checks.violations}")
    return History(seed, checks.violations, world.clock.now_ns / 1e9, world.clock.events, world.hash.hexdigest(), world.coverage, lines)


class _Plot:
    def __init__(self, world: LeaseWorld) -> None:
        self.world = world
        self.rng = world.rng
        self.changes = 0
        self.forced = False

    def play(self) -> None:
        """From the first boot to the last check."""
        world = self.world
        for host in world.hosts:
            world.later(D_NS // 10, lambda host=host: world.start(host, reboot=False))
        peace_ns = D_NS + D_NS // 4 if self.rng.random() < 0.7 else 1
        world.clock.after(peace_ns, self._chaos)
        if world.faults.crash:
            world.clock.after(peace_ns, self._restart_gates)
        end_ns = peace_ns + self.rng.randrange(3 * D_NS, 9 * D_NS)
        world.clock.run(end_ns, lambda: False)
        self._heal()
        healed_ns = world.clock.now_ns
        world.clock.run(healed_ns + LIVE_LEASES * D_NS, lambda: False)
        if self._can_live():
            wanted = sum(not world.hosts[i].gone for i in world.candidates)
            world.checks.liveness(world.keys if wanted else [], wanted, healed_ns, world.clock.now_ns)
        world.checks.honest(world.hosts[world.byzantine].id if world.byzantine >= 0 else None, world.clock.now_ns)

    def _chaos(self) -> None:
        """Something, and then something else."""
        if self.world.healed:
            return
        faults = self.world.faults
        events: list[Callable[[], None]] = [self._gossip]
        table: list[tuple[bool, Callable[[], None], int]] = [
            (faults.cuts, self._cut, 3),
            (faults.crash, self._crash, 2),
            (faults.drift and faults.rates, self._drift, 1),
            (faults.freeze, lambda: self._freeze(stand=False), 2),
            (faults.stand, lambda: self._freeze(stand=True), 2),
            (faults.epochs and self.changes < CHANGES, self._change, 2),
            (faults.forced and not self.forced, self._force, 1),
        ]
        for on, event, weight in table:
            events += [event] * weight if on else []
        self.rng.choice(events)()
        self.world.later(self.rng.choice((D_NS // 2, D_NS // 2, 3 * D_NS)), self._chaos)  # now and then, let it take its course

    def _victim(self) -> LeaseHost:
        """A holder rather than another: that is where it hurts."""
        holders = [host for host in self.world.hosts if self.world.state(host) == "holder"]
        return self.rng.choice(holders if holders and self.rng.random() < 0.6 else self.world.hosts)

    def _met(self, what: str, host: LeaseHost) -> None:
        self.world.coverage[f"{what} {self.world.state(host)}"] += 1
        self.world.note(host.index, what)

    # -- faults --------------------------------------------------------------------------------------------------------

    def _cut(self) -> None:
        world, victim = self.world, self._victim()
        others = [host.index for host in world.hosts if host is not victim]
        match self.rng.randrange(4):
            case 0:
                world.cut.clear()
                self._met("reunion", victim)
            case 1:
                self._met("isolation", victim)
                world.cut |= {(victim.index, i) for i in others} | {(i, victim.index) for i in others}
            case _ if others:
                self._met("one-way cut", victim)
                other = self.rng.choice(others)
                world.cut.add((victim.index, other) if self.rng.random() < 0.5 else (other, victim.index))
            case _:
                pass

    def _crash(self) -> None:
        victim = self._victim()
        self._met("crash", victim)
        self.world.crash(victim)
        reboot = self.rng.random() < 0.5
        most_ns = self.rng.choice((D_NS // 50, 2 * D_NS))
        self.world.later(most_ns, lambda: self.world.start(victim, reboot))

    def _restart_gates(self) -> None:
        if not self.world.healed:
            self.world.start_gate(self.rng.choice(self.world.gates))
            self.world.later(D_NS, self._restart_gates)

    def _drift(self) -> None:
        victim, rho = self._victim(), self.world.rho
        if victim.clock.ppm:
            self._met("drift", victim)
            victim.clock.change(self.world.clock.now_ns, self.rng.choice((PPM - rho, PPM, PPM + rho)))
            self.world.carry_out(victim)

    def _freeze(self, *, stand: bool) -> None:
        victim, world = self._victim(), self.world
        if victim.leases is None or victim.frozen:
            return
        self._met("clock stands" if stand else "freeze", victim)
        victim.frozen = True
        if stand:
            victim.clock.change(world.clock.now_ns, 0)
        world.later(self.rng.choice((D_NS // 5, 3 * D_NS)), lambda: world.thaw(victim))

    def _gossip(self) -> None:
        """Rosters spread on their own, too."""
        host, peer = self.rng.choice(self.world.hosts), self.rng.choice(self.world.hosts)
        self.world.fetch(host, peer)

    # -- epochs --------------------------------------------------------------------------------------------------------

    def _change(self) -> None:
        """Promote one or two, replace one, or drop one; now and then two epochs at once."""
        world = self.world
        voters = [host.index for host in world.hosts if host.id in world.roster.voters]
        spare = [host.index for host in world.hosts if host.index not in voters and not host.gone]
        how = self.rng.choice(("promote", "promote", "replace", "drop"))
        if how == "replace" and spare and len(voters) > 1:
            lost = self.rng.choice(voters)
            if self.rng.random() < 0.5:
                self._kill_if_spared(world.hosts[lost])
            voters = [*(voter for voter in voters if voter != lost), self.rng.choice(spare)]
        elif how == "promote" and spare:
            voters = [*voters, *self.rng.sample(spare, min(len(spare), self.rng.choice((1, 1, 2))))]
        elif how == "drop" and len(voters) > 1:
            voters.remove(self.rng.choice(voters))
        else:
            return
        self.changes += 1
        for host in world.hosts:
            self.world.coverage[f"epoch change {world.state(host)}"] += 1
        world.next_roster(sorted(voters))
        count = len(world.chain)
        for host in self.rng.sample(world.hosts, self.rng.randrange(1, len(world.hosts) + 1)):
            world.later(D_NS // 10, lambda host=host: world.learn(host, count))
        if self.changes < CHANGES and self.rng.random() < 0.25:
            self._change()

    def _open_epochs(self) -> list[Epoch]:
        """Those that may grant, now or later: from the newest that anybody began."""
        world = self.world
        begun = max((host.leases.tenure.active for host in world.hosts if host.leases is not None), default=1)
        begun = max(begun, *(tenancy.token.epoch for held in world.checks.tenancies.values() for tenancy in held.values()), 1)
        epochs = [*world.epochs.below(world.roster.epoch), epoch_of(world.roster)]
        return [epoch for epoch in epochs if epoch.number >= begun]

    def _alive(self, epoch: Epoch, but: LeaseHost | None = None) -> int:
        return sum(host.id in epoch.voters and not host.gone and host is not but for host in self.world.hosts)

    def _can_live(self) -> bool:
        """Whether what is gone for good leaves a quorum to every epoch that must still seal or grant."""
        if self.forced:
            return True
        return all(self._alive(epoch) >= epoch.quorum for epoch in self.world.epochs.below(1 << 53))

    def _kill_if_spared(self, host: LeaseHost) -> None:
        """Gone for good, if a quorum of every epoch stays."""
        world = self.world
        if all(self._alive(epoch, but=host) >= epoch.quorum for epoch in world.epochs.below(1 << 53)):
            self._met("death", host)
            world.crash(host)
            host.gone = True

    def _force(self) -> None:
        """A majority of every epoch that may still grant is gone for good, and the operator says so."""
        world = self.world
        doomed: set[int] = set()
        for epoch in world.epochs.below(1 << 53):
            alive = [host.index for host in world.hosts if host.id in epoch.voters and host.index not in doomed]
            doomed |= set(self.rng.sample(alive, max(0, len(alive) - (epoch.quorum - 1))))
        left = [host.index for host in world.hosts if host.index not in doomed and not host.gone]
        if not left or world.byzantine >= 0 or any(host.gone for host in world.hosts):
            return
        self.forced = True
        for i in sorted(doomed):
            self._met("death of the majority", world.hosts[i])
            world.crash(world.hosts[i])
            world.hosts[i].gone = True
        world.next_roster(sorted(self.rng.sample(left, self.rng.randrange(1, len(left) + 1))))
        forced = epoch_of(world.roster)
        word = sign_forced(Stamps(OPERATOR), forced, 1)
        told = self.rng.choice([host for host in world.hosts if host.id in world.roster.voters])
        world.clock.after(D_NS // 10, lambda: self._tell_force(told, word, forced.number, len(world.chain)))

    def _tell_force(self, host: LeaseHost, word: bytes, epoch: int, rosters: int) -> None:
        """The operator goes on until it has worked."""
        world = self.world
        if host.leases is not None and not host.frozen:
            world.learn(host, rosters)
            if host.leases is not None:
                try:
                    host.leases.force(word, world.now(host))
                except RemoteProtocolError as error:
                    world.checks.bad("L9", f"the operator's word was refused: {error.reason}", world.clock.now_ns)
                world.carry_out(host)
        if host.leases is None or host.leases.tenure.active < epoch:
            world.clock.after(D_NS // 5, lambda: self._tell_force(host, word, epoch, rosters))

    # -- the end -------------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """No fault any more; everybody who is not gone is here, knows the rosters, and wants."""
        world = self.world
        world.healed = True
        world.air.clear()
        world.cut.clear()
        for host in world.hosts:
            world.thaw(host)
            world.heal_disk(host)
            world.start(host, reboot=False)
            world.learn(host, len(world.chain))
            if host.index in world.candidates:
                world.want(host)
        world.note(-1, "healed")
