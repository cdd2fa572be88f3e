"""The lease's world: hosts that vote and want, gates that let them act, and what may go wrong between them (DESIGN section 3.5).

Nothing but the lease runs here, so a history costs milliseconds. A history is a safety phase under the faults that its seed drew, then
healing, then 3 D in which every key must find a holder. ``sim.lease_checkers`` watches in true time.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import Refused
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer, Roster, SignedRoster
from cloudisense.keys.testing import HashRng
from cloudisense.mesh.effects import Persist
from cloudisense.mesh.epoch import Epochs, epoch_of
from cloudisense.mesh.fence import Fence
from cloudisense.mesh.grant import Grant, sign_grant
from cloudisense.mesh.instant import Instant
from cloudisense.mesh.lease import Leases, Tell
from cloudisense.mesh.lease_messages import LeaseGranted, LeaseMessage, LeaseReleased, LeaseRequest
from cloudisense.mesh.lease_port import Behind, EpochBegun, LeaseHeld, LeaseLost, News
from cloudisense.mesh.slots import PREFIX, Slots
from cloudisense.mesh.token import Token
from cloudisense.mesh.voter import Voter
from cloudisense.sim.clock import Clock
from cloudisense.sim.lease_checkers import Checks
from cloudisense.sim.lease_faults import D_MS, D_NS, RHOS, Air, Faults
from cloudisense.sim.lease_host import PPM, HostClock, LeaseHost, Stamps, rows_of

IDS = [Identity.generate(HashRng(f"lease world {i}")).id for i in range(9)]
OPERATOR, ROOT = (Identity.generate(HashRng(f"lease world {name}")).id for name in ("operator", "root"))
GATES = 2
SYNC_NS = (200_000, 5_000_000)
SLOW_NS = (D_NS // 200, D_NS // 3)


class TwoFaced(Voter):
    """A byzantine voter: grants everything to everybody, at once, and promises nothing."""

    def __init__(self, stamps: Stamps, world: "LeaseWorld", host: LeaseHost) -> None:
        self._stamps = stamps
        self._world = world
        self._host = host

    def running_until_ns(self) -> int:
        return 0

    def requested(self, peer: bytes, message: LeaseRequest, now: Instant) -> None:
        grant = Grant(message.key, Token(message.epoch, message.round, peer), D_MS, message.nonce)
        self._world.send(self._host, peer, LeaseGranted(sign_grant(self._stamps, grant)))

    def released(self, peer: bytes, message: LeaseReleased, now: Instant) -> None:
        pass


class GateHost:
    """A gate with its durable memory of tokens; it restarts, too."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.disk: dict[str, bytes] = {}
        self.boots = 0
        self.rosters = 1
        self.fence: Fence


class LeaseWorld:
    """One history's hosts, network and root. All randomness comes from ``rng``."""

    def __init__(self, rng: random.Random, faults: Faults, air: Air, tell: Callable[[str], None] | None = None) -> None:
        self.rng = rng
        self.faults = faults
        self.air = air
        self.clock = Clock()
        self.tell = tell
        self.hash = hashlib.blake2b(digest_size=16)
        self.coverage: Counter[str] = Counter()
        self.rho = rng.choice(RHOS)
        self.cut: set[tuple[int, int]] = set()
        count = rng.choice((1, 2, 3, 3, 3, 4, 5, 5))
        voters = IDS[: rng.randrange(1, count + 1)] if faults.epochs else IDS[:count]
        self.slot_count = rng.choice((1, 2)) if faults.slots else 0
        self.checks = Checks(self.slot_count, faults.byzantine)
        issuers = (Issuer(IDS[0], b"no anchor here"),)
        self.roster = Roster(1, 1, (ROOT,), 1, tuple(voters), issuers, (OPERATOR,), (), D_MS, self.rho)
        self.chain = [_chained(self.roster)]
        self.epochs = Epochs(self.chain)
        self.keys = [f"{PREFIX}{i}" for i in range(self.slot_count)] or ["db", "vip"][: rng.choice((1, 1, 2))]
        self.strike_chance = rng.choice((0.002, 0.01, 0.03)) if faults.strike else 0.0
        self.byzantine = rng.randrange(len(voters)) if faults.byzantine else -1
        self.slots: dict[int, Slots] = {}
        self.hosts = [self._host(i) for i in range(count + rng.choice((0, 0, 1)))]
        self.candidates = sorted(rng.sample(range(len(self.hosts)), min(len(self.hosts), rng.choice((2, 2, 3, 9)))))
        self.gates = [GateHost(i) for i in range(GATES)]
        self.healed = False
        for gate in self.gates:
            self.start_gate(gate)

    def _host(self, i: int) -> LeaseHost:
        ppm = self.rng.choice((PPM - self.rho, PPM, PPM + self.rho)) if self.faults.rates else PPM
        sync_ns = SLOW_NS if self.faults.slow_disk and self.rng.random() < 0.5 else SYNC_NS
        return LeaseHost(i, IDS[i], HostClock(0, self.rng.randrange(1 << 40), ppm), ppm, sync_ns)

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def note(self, host: int, what: str) -> None:
        """Into the trace's hash, and for whoever reads along."""
        line = f"{self.clock.now_ns} n{host} {what}"
        self.hash.update(line.encode())
        if self.tell is not None:
            self.tell(f"{self.clock.now_ns / 1e9:10.6f} s  n{host}  {what}")

    def now(self, host: LeaseHost) -> Instant:
        """What its clocks say."""
        return host.now(self.clock.now_ns)

    def start(self, host: LeaseHost, reboot: bool) -> None:
        """Start its process from what its disk holds."""
        if host.gone or host.leases is not None:
            return
        host.boots += 1
        host.inbox.clear()
        host.frozen = host.fetching = False
        host.wake_ns = -1
        if host.clock.ppm == 0:
            host.clock.change(self.clock.now_ns, host.base_ppm)
        if reboot:  # the old clock goes on for whoever still counts on it
            host.clock = HostClock(self.clock.now_ns, self.rng.randrange(1 << 40), host.base_ppm)
        if self.faults.stale and not self.healed and self.rng.random() < 0.6:
            host.rosters = self.rng.randrange(1, host.rosters + 1)
        stamps = Stamps(host.id)
        rng = random.Random(self.rng.randrange(1 << 62))
        host.leases = Leases(stamps, self.chain[: host.rosters], rng, dict(host.disk), self.now(host))
        if host.index == self.byzantine:
            host.leases.voter = TwoFaced(stamps, self, host)
        self.note(host.index, f"start, boot {host.boots}")
        host.leases.start(self.now(host))
        self.carry_out(host)
        if host.index in self.candidates and host.leases is not None:
            self.want(host)

    def want(self, host: LeaseHost) -> None:
        """Want all keys, or one slot."""
        leases = host.leases
        if leases is None or host.frozen:
            return
        now = self.now(host)
        if self.slot_count:
            rng = random.Random(self.rng.randrange(1 << 62))
            self.slots.setdefault(host.index, Slots(leases, rng, self.slot_count)).want(now)
        for key in () if self.slot_count else self.keys:
            leases.want(key, now)
        self.carry_out(host)

    def drop(self, host: LeaseHost) -> None:
        """Give up all of it."""
        leases = host.leases
        if leases is None or host.frozen:
            return
        if (slots := self.slots.pop(host.index, None)) is not None:
            slots.drop(self.now(host))
        for key in leases.wanted():
            leases.drop(key, self.now(host))
        self.carry_out(host)

    def crash(self, host: LeaseHost) -> None:
        """Its process is gone, and what it had not synced; a part of that may have reached the disk."""
        if host.leases is None:
            return
        kept = self.rng.randrange(len(host.unsynced) + 1) if self.faults.torn else 0
        for effect in host.unsynced[:kept]:
            host.sync(effect)
        host.unsynced.clear()
        host.free_ns = 0
        host.leases = None
        self.slots.pop(host.index, None)
        self.note(host.index, "crash")

    def state(self, host: LeaseHost) -> str:
        """What a fault meets at this host."""
        leases = host.leases
        if leases is None:
            return "down"
        now = self.now(host)
        if any(leases.held(key, now) for key in self.keys):
            return "holder"
        objection = leases.tenure.objection(leases.epochs.newest.number, now)
        if objection is not None:
            return objection[0].split()[0]
        return "granted" if leases.voter.running_until_ns() > now.boot_ns else "free"

    def event(self, host: LeaseHost, do: Callable[[Leases], None]) -> None:
        """Let its process do something now, or when it thaws, unless it has crashed by then."""
        leases = host.leases
        if leases is None:
            return
        if host.frozen:
            host.inbox.append(lambda: self.event(host, do))
            return
        do(leases)
        self.carry_out(host)

    def carry_out(self, host: LeaseHost) -> None:
        """Its news first, for that is true already; then its effects, between any two of which it may crash."""
        leases = host.leases
        if leases is None:
            return
        busy = True
        while busy:
            busy = False
            for news in leases.poll_news():
                busy = True
                self._news(host, leases, news)
            for effect in leases.poll_effects():
                busy = True
                if host.leases is not leases:
                    return
                if isinstance(effect, Tell):
                    self._send(host, effect)
                else:
                    self._persist(host, leases, effect)
        self._plan(host)

    def _plan(self, host: LeaseHost) -> None:
        deadline = host.leases.next_deadline() if host.leases is not None else None
        at_ns = host.clock.when(deadline) if deadline is not None else None
        if at_ns is not None and not host.wake_ns == at_ns > self.clock.now_ns:
            host.wake_ns = max(at_ns, self.clock.now_ns + 1)
            self.clock.at(host.wake_ns, lambda wake=host.wake_ns: self._wake(host, wake))

    def _wake(self, host: LeaseHost, wake_ns: int) -> None:
        if host.wake_ns == wake_ns and not host.frozen:
            self.event(host, lambda leases: leases.handle_timer(self.now(host)))

    def thaw(self, host: LeaseHost) -> None:
        """It runs again. What came in meanwhile and what is due come in either order."""
        if not host.frozen:
            return
        if host.clock.ppm == 0:
            host.clock.change(self.clock.now_ns, host.base_ppm)
        host.frozen = False
        inbox, host.inbox = host.inbox, []
        due = [lambda: self.event(host, lambda leases: leases.handle_timer(self.now(host)))]
        for do in (*due, *inbox) if self.rng.random() < 0.5 else (*inbox, *due):
            do()

    # -- effects -------------------------------------------------------------------------------------------------------

    def _strikes(self, host: LeaseHost, where: str) -> bool:
        """Whether it crashes just here; rather at a sync, of which there are fewer."""
        chance = self.strike_chance * (4 if where.endswith("sync") else 1)
        if chance and not self.healed and self.rng.random() < chance:
            self.coverage[f"crash {where} {self.state(host)}"] += 1
            self.crash(host)
            self.later(D_NS * 2, lambda: self.start(host, self.rng.random() < 0.5))
            return True
        return False

    def later(self, most_ns: int, do: Callable[[], None]) -> None:
        """Some time from now."""
        self.clock.after(self.rng.randrange(1, most_ns), do)

    def _send(self, host: LeaseHost, effect: Tell) -> None:
        if self._strikes(host, "before send"):
            return
        self.send(host, effect.to, effect.message)
        self._strikes(host, "after send")

    def send(self, host: LeaseHost, to: bytes, message: LeaseMessage) -> None:
        """One message leaves ``host``."""
        if host.index != self.byzantine:
            self.checks.sent(host, message, self.clock.now_ns)
        target = next((other for other in self.hosts if other.id == to), None)
        if target is None:
            return
        self.note(host.index, f"to n{target.index}: {type(message).__name__} {_words(message)}")
        for delay_ns in self.air.copies() if target is not host else (1,):
            self.clock.after(delay_ns, lambda: self._deliver(host, target, message))

    def _deliver(self, source: LeaseHost, target: LeaseHost, message: LeaseMessage) -> None:
        if (source.index, target.index) not in self.cut:
            self.event(target, lambda leases: leases.handle(source.id, message, self.now(target)))

    def _persist(self, host: LeaseHost, leases: Leases, effect: Persist) -> None:
        host.unsynced.append(effect)
        host.free_ns = max(host.free_ns, self.clock.now_ns) + self.rng.randrange(*host.sync_ns)
        self.clock.at(host.free_ns, lambda: self._sync(host, leases, effect))

    def _sync(self, host: LeaseHost, leases: Leases, effect: Persist) -> None:
        if host.leases is not leases or effect not in host.unsynced or self._strikes(host, "before sync"):
            return
        host.unsynced.remove(effect)
        host.sync(effect)
        self.note(host.index, f"synced {','.join(str(put.row['key']) for put in rows_of(effect))}")
        if not self._strikes(host, "after sync"):
            self.event(host, lambda leases: leases.persisted(effect.token, self.now(host)))

    def heal_disk(self, host: LeaseHost) -> None:
        """It is fast from now on, and has caught up."""
        host.sync_ns, host.free_ns = SYNC_NS, self.clock.now_ns
        for effect in list(host.unsynced):
            if host.leases is not None:
                self._sync(host, host.leases, effect)

    def _news(self, host: LeaseHost, leases: Leases, news: News) -> None:
        if (slots := self.slots.get(host.index)) is not None:
            slots.heard(news, self.now(host))
        match news:
            case LeaseHeld(lease, renewed):
                self.note(host.index, f"{'renews' if renewed else 'HOLDS'} {lease.key} {lease.token[:2]}")
                terms = leases.epochs.get(lease.token.epoch)
                self.checks.held(host, lease, terms.hold_ns if terms is not None else 0, renewed, self.clock.now_ns)
                if not renewed:
                    self.later(D_NS // 3, lambda: self._act(host, leases, lease.key, lease.token))
                    if self.faults.drops and not self.healed and self.rng.random() < 0.4:
                        self.later(2 * D_NS, lambda: self._rest(host, leases))
            case LeaseLost(key, token, reason):
                self.note(host.index, f"loses {key} {token[:2]}: {reason}")
                self.checks.lost(host, key)
            case EpochBegun(epoch, forced):
                self.note(host.index, f"begins epoch {epoch}{' by force' if forced else ''}")
                self.coverage[f"begins epoch{' by force' if forced else ''}"] += 1
            case Behind(peer):
                self.fetch(host, next(other for other in self.hosts if other.id == peer))
            case _:
                pass

    def _rest(self, host: LeaseHost, leases: Leases) -> None:
        if host.leases is leases and not self.healed:
            self.drop(host)
            self.later(D_NS, lambda: self.want(host))

    def fetch(self, host: LeaseHost, peer: LeaseHost) -> None:
        """Get the peer's rosters, one try at a time; both ways can fail."""
        if self.faults.hush and not self.healed and self.rng.random() < 0.9:
            return
        if host.fetching or peer.leases is None or {(host.index, peer.index), (peer.index, host.index)} & self.cut:
            return
        host.fetching = True

        def got() -> None:
            host.fetching = False
            self.learn(host, peer.rosters)

        self.later(D_NS // 20, got)

    def learn(self, host: LeaseHost, rosters: int) -> None:
        """The first so many rosters are known to ``host``."""

        def take(leases: Leases) -> None:
            host.rosters = max(host.rosters, rosters)
            leases.learn(self.chain[: host.rosters], self.now(host))

        self.event(host, take)

    # -- gates ---------------------------------------------------------------------------------------------------------

    def start_gate(self, gate: GateHost) -> None:
        """Start it, or start it again: it remembers what was synced."""
        gate.boots += 1
        gate.fence = Fence(Stamps(bytes(32)), Epochs(self.chain[: gate.rosters]), dict(gate.disk))

    def _act(self, host: LeaseHost, leases: Leases, key: str, token: Token) -> None:
        """While it holds, a holder acts now and then; on its way, an act may be late."""
        now = self.now(host)
        if host.leases is not leases:
            return
        if host.frozen:
            host.inbox.append(lambda: self._act(host, leases, key, token))
            return
        lease = leases.held(key, now)
        if lease is None or lease.token != token:
            return
        gate = self.rng.choice(self.gates)
        left_ns = lease.until_ns - now.boot_ns
        slept_ns = self.rng.randrange(2 * D_NS) if self.faults.zombies and self.rng.random() < 0.3 else 0
        for delay_ns in self.air.copies():
            self.clock.after(slept_ns + delay_ns, lambda: self._knock(gate, host.id, key, lease.certificate, left_ns, host.rosters))
        self.later(D_NS // 4, lambda: self._act(host, leases, key, token))

    def _knock(self, gate: GateHost, holder: bytes, key: str, certificate: bytes, left_ns: int, rosters: int) -> None:
        if rosters > gate.rosters:
            gate.rosters = rosters
            self.start_gate(gate)
        admitted = gate.fence.admit(key, holder, certificate, left_ns)
        if isinstance(admitted, Refused):
            self.coverage[f"gate: {admitted.reason.split(':')[0].split(';')[0]}"] += 1
            return
        boots, fence = gate.boots, gate.fence

        def synced() -> None:
            if gate.boots != boots:
                return
            gate.disk |= {str(put.row["key"]): put.row["value"] for put in admitted.rows if isinstance(put.row["value"], bytes)}
            if fence.confirm(admitted):
                self.checks.admission(gate.index, key, admitted.token, self.clock.now_ns)

        self.later(SYNC_NS[1], synced)

    # -- the root ------------------------------------------------------------------------------------------------------

    def next_roster(self, voters: Sequence[int]) -> None:
        """The root signs the next epoch; who learns of it is another matter."""
        roster = self.roster
        ids = tuple(IDS[i] for i in voters)
        self.roster = Roster(
            roster.number + 1, roster.epoch + 1, roster.roots, 1, ids, roster.issuers, roster.operators, (), D_MS, self.rho
        )
        self.chain.append(_chained(self.roster))
        self.epochs.take(self.chain)
        self.note(-1, f"epoch {self.roster.epoch}: {list(voters)}")

    @property
    def newest_digest(self) -> bytes:
        """Of the newest epoch."""
        return epoch_of(self.roster).digest


def _chained(roster: Roster) -> bytes:
    """A link that nobody signed: whoever verifies chains stands before the lease."""
    return pack(SignedRoster(pack(roster), ()))


def _words(message: LeaseMessage) -> str:
    return " ".join(str(value) for value in (getattr(message, name) for name in message.__struct_fields__) if not isinstance(value, bytes))
