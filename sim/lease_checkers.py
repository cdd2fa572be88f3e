"""L1 to L9 (DESIGN section 4), looked at from outside the nodes, in true time."""

from dataclasses import dataclass, field

from cloudisense.mesh.epoch import open_seal
from cloudisense.mesh.grant import Watch, open_grant
from cloudisense.mesh.lease_messages import LeaseGranted, LeaseMessage, Sealed
from cloudisense.mesh.lease_port import Lease
from cloudisense.mesh.slots import PREFIX
from cloudisense.mesh.token import Token
from cloudisense.sim.lease_host import HostClock, LeaseHost, Stamps


@dataclass(slots=True)
class Tenancy:
    """One host's hold on one key. It lasts until its time is up on its host's clock, whether or not its process still lives."""

    host: int
    boot: int
    token: Token
    until_ns: int
    hold_ns: int
    clock: HostClock
    released: bool = False

    def holds(self, true_ns: int) -> bool:
        """Whether it is a holder now, for L1: not if its clock stood still meanwhile (L4 is for those)."""
        return not self.released and self.clock.read(true_ns) < self.until_ns and not self.stood()

    def stood(self) -> bool:
        """Whether its clock stood still since it asked."""
        return self.clock.stood_at_ns >= self.until_ns - self.hold_ns


@dataclass(slots=True)
class Checks:
    """``evidence_only``: a byzantine voter is about, and nothing but L7 is promised."""

    slots: int
    evidence_only: bool = False
    violations: list[str] = field(default_factory=list[str])
    tenancies: dict[str, dict[int, Tenancy]] = field(default_factory=dict[str, dict[int, Tenancy]])
    held_at: dict[str, int] = field(default_factory=dict[str, int])
    """Key -> when it was last taken or renewed, in true time."""
    acquired: int = 0
    admitted: int = 0
    convicted: set[bytes] = field(default_factory=set[bytes])
    clashes: set[tuple[str, int, int]] = field(default_factory=set[tuple[str, int, int]])
    _last: dict[str, Token] = field(default_factory=dict[str, Token])
    _owners: dict[tuple[str, Token], tuple[int, int]] = field(default_factory=dict[tuple[str, Token], tuple[int, int]])
    _rounds: dict[tuple[str, int, int], bytes] = field(default_factory=dict[tuple[str, int, int], bytes])
    _gates: dict[tuple[int, str], Token] = field(default_factory=dict[tuple[int, str], Token])
    _stamps: Stamps = field(default_factory=lambda: Stamps(bytes(32)))
    _watch: Watch = field(default_factory=lambda: Watch(Stamps(bytes(32))))

    def bad(self, name: str, what: str, true_ns: int) -> None:
        """One more violation, unless it cannot be held against honest nodes."""
        if not self.evidence_only or name == "L7":
            self.violations.append(f"{name}: {what} at {true_ns / 1e9:.6f} s")

    # -- what nodes do -------------------------------------------------------------------------------------------------

    def held(self, host: LeaseHost, lease: Lease, hold_ns: int, renewed: bool, true_ns: int) -> None:
        """``host`` says that it holds."""
        mine = Tenancy(host.index, host.boots, lease.token, lease.until_ns, hold_ns, host.clock)
        others = self.tenancies.setdefault(lease.key, {})
        self._l1(lease.key, mine, others, true_ns)
        if not renewed:
            self.acquired += 1
            self._l2_l3(lease.key, mine, true_ns)
        others[host.index] = mine
        self.held_at[lease.key] = true_ns
        self._l8(true_ns)
        self._l7(lease, true_ns)

    def _l1(self, key: str, mine: Tenancy, others: dict[int, Tenancy], true_ns: int) -> None:
        for other in others.values():
            if other.host != mine.host and other.holds(true_ns) and mine.holds(true_ns):
                self.bad("L1", f"{key} is n{other.host}'s round {other.token.round} and n{mine.host}'s round {mine.token.round}", true_ns)

    def _l2_l3(self, key: str, mine: Tenancy, true_ns: int) -> None:
        last = self._last.get(key)
        if not mine.stood():  # a clock that stood takes late what was its own early
            if last is not None and (mine.token <= last or mine.token.round <= last.round):
                self.bad("L2", f"{key}: {mine.token[:2]} of n{mine.host} after {last[:2]}", true_ns)
            self._last[key] = max(mine.token, last or mine.token)
        owner = self._owners.setdefault((key, mine.token), (mine.host, mine.boot))
        if owner != (mine.host, mine.boot):
            self.bad("L3", f"{key}: token {mine.token[:2]} of n{owner[0]} boot {owner[1]} again, boot {mine.boot}", true_ns)

    def _l7(self, lease: Lease, true_ns: int) -> None:
        """Two holders for one round: whoever sees both certificates can convict a voter; and nobody honest is ever convicted."""
        place = (lease.key, lease.token.epoch, lease.token.round)
        if self._rounds.setdefault(place, lease.token.holder) != lease.token.holder:
            self.clashes.add(place)
        evidence = self._watch.see(lease.certificate)
        self.convicted |= {found.check(self._stamps) for found in evidence}
        if place in self.clashes and not self.convicted:
            self.bad("L7", f"two holders of {place}, and no evidence", true_ns)

    def _l8(self, true_ns: int) -> None:
        held = {t.host for key, found in self.tenancies.items() if key.startswith(PREFIX) for t in found.values() if t.holds(true_ns)}
        if len(held) > self.slots:
            self.bad("L8", f"{len(held)} hosts under change, {self.slots} slots", true_ns)

    def lost(self, host: LeaseHost, key: str) -> None:
        """``host`` says that it holds no more."""
        tenancy = self.tenancies.get(key, {}).get(host.index)
        if tenancy is not None and tenancy.boot == host.boots:
            tenancy.released = True

    def sent(self, host: LeaseHost, message: LeaseMessage, true_ns: int) -> None:
        """L5 and L6: what leaves a voter."""
        if isinstance(message, Sealed):
            host.sealed_below = max(host.sealed_below, self._below(message))
        elif isinstance(message, LeaseGranted):
            _, grant = open_grant(self._stamps, message.grant)
            if host.promises.get(grant.key) != tuple(grant.token):
                self.bad("L5", f"n{host.index} granted {grant.key} {grant.token[:2]} before its promise was durable", true_ns)
            if grant.token.epoch < host.sealed_below:
                self.bad("L6", f"n{host.index} granted in epoch {grant.token.epoch}, sealed below {host.sealed_below}", true_ns)

    def _below(self, message: Sealed) -> int:
        return open_seal(self._stamps, message.seal)[1].below

    def admission(self, gate: int, key: str, token: Token, true_ns: int) -> None:
        """L4: a gate let somebody act."""
        self.admitted += 1
        highest = self._gates.get((gate, key))
        if highest is not None and token < highest:
            self.bad("L4", f"gate {gate} admitted {key} {token[:2]} after {highest[:2]}", true_ns)
        self._gates[gate, key] = max(token, highest or token)

    # -- at the end ----------------------------------------------------------------------------------------------------

    def liveness(self, keys: list[str], wanted: int, healed_ns: int, true_ns: int) -> None:
        """L9: in a healed quorum every wanted key was held within 3 D; of slots, as many as ``wanted`` hosts can have."""
        held = [key for key in keys if self.held_at.get(key, -1) >= healed_ns or self._is_held(key, true_ns)]
        if len(held) < min(len(keys), wanted if self.slots else len(keys)):
            self.bad("L9", f"only {held} of {keys} held in 3 D after healing", true_ns)

    def _is_held(self, key: str, true_ns: int) -> bool:
        return any(tenancy.holds(true_ns) for tenancy in self.tenancies.get(key, {}).values())

    def honest(self, byzantine: bytes | None, true_ns: int) -> None:
        """L7, the other half: evidence convicts nobody honest."""
        for voter in sorted(self.convicted):
            if voter != byzantine:
                self.bad("L7", f"evidence against an honest voter {voter.hex()[:8]}", true_ns)
