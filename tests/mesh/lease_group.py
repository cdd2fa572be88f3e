"""Nodes with the lease, whose messages, disks and clocks a test moves by hand."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer, Roster, mesh_id_of, sign_roster
from cloudisense.keys.testing import HashRng, issue_for_tests
from cloudisense.mesh.effects import Persist, Put
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.lease import Leases, Tell
from cloudisense.mesh.lease_messages import LeaseMessage
from cloudisense.mesh.lease_port import News
from cloudisense.mesh.signatures import Envelopes

T = TypeVar("T")

D_MS, RHO = 1500, 10_000
HOLD_MS = D_MS * 990_000 // 1_010_000
IDENTITIES = [Identity.generate(HashRng(f"lease test {i}")) for i in range(6)]
ROOT, OPERATOR = Identity.generate(HashRng("root")), Identity.generate(HashRng("operator"))


class Group:
    """``count`` nodes, the first ``voters`` of which vote. Nothing moves but by ``run``; time is one clock for all."""

    def __init__(self, count: int, voters: int | None = None, quiet: bool = True) -> None:
        ids = [identity.id for identity in IDENTITIES]
        anchor = issue_for_tests(1).anchor
        issuers = (Issuer(ids[0], anchor),)
        self.roster = Roster(1, 1, (ROOT.id,), 1, tuple(ids[: voters or count]), issuers, (OPERATOR.id,), (), D_MS, RHO)
        first = sign_roster(self.roster, None, ROOT)
        self.mesh_id = mesh_id_of(first)
        self.chain = [first]
        self.ms = 0
        self.disks: list[dict[str, bytes]] = [{} for _ in range(count)]
        self.unsynced: list[list[Persist]] = [[] for _ in range(count)]
        self.slow: set[int] = set()
        self.cut: set[tuple[int, int]] = set()
        self.news: list[list[News]] = [[] for _ in range(count)]
        self.sent: list[tuple[int, int, LeaseMessage]] = []
        self.held_back: Callable[[int, int, LeaseMessage], bool] = lambda *_: False
        self.waiting: list[tuple[int, int, LeaseMessage]] = []
        self.nodes: list[Leases | None] = [None] * count
        for i in range(count):
            self.boot(i)
        if quiet:
            self.run(D_MS)

    @property
    def now(self) -> Instant:
        return Instant(self.ms * NS_PER_MS, 0)

    def boot(self, i: int, chain: Sequence[bytes] | None = None) -> None:
        self.unsynced[i] = []
        signatures = Envelopes(IDENTITIES[i], self.mesh_id)
        self.nodes[i] = node = Leases(signatures, chain or self.chain, random.Random(i + self.ms), self.disks[i], self.now)
        node.start(self.now)
        self.step()

    def crash(self, i: int) -> None:
        self.nodes[i] = None
        self.unsynced[i] = []

    def node(self, i: int) -> Leases:
        node = self.nodes[i]
        assert node is not None
        return node

    def step(self) -> None:
        """Carry out effects until there are none."""
        busy = True
        while busy:
            busy = False
            for i, node in enumerate(self.nodes):
                for effect in node.poll_effects() if node is not None else ():
                    busy = True
                    self._carry_out(i, effect)
                if node is not None:
                    self.news[i] += node.poll_news()
                while self.unsynced[i] and i not in self.slow:
                    busy = True
                    self.sync(i)

    def sync(self, i: int) -> None:
        effect = self.unsynced[i].pop(0)
        rows = [put.row for put in effect.rows if isinstance(put, Put)]
        self.disks[i] |= {str(row["key"]): row["value"] for row in rows if isinstance(row["value"], bytes)}
        self.node(i).persisted(effect.token, self.now)

    def _carry_out(self, i: int, effect: Tell | Persist) -> None:
        if isinstance(effect, Persist):
            self.unsynced[i].append(effect)
            return
        j = [identity.id for identity in IDENTITIES].index(effect.to)
        self.sent.append((i, j, effect.message))
        if self.held_back(i, j, effect.message):
            self.waiting.append((i, j, effect.message))
        elif (i, j) not in self.cut and j < len(self.nodes):
            self.deliver(i, j, effect.message)

    def deliver(self, i: int, j: int, message: LeaseMessage) -> None:
        if (node := self.nodes[j]) is not None:
            node.handle(IDENTITIES[i].id, message, self.now)

    def run(self, ms: int) -> None:
        """Let time pass, a millisecond at a time where something is due."""
        end = self.ms + ms
        self.step()
        while self.ms < end:
            due = [node.next_deadline() for node in self.nodes if node is not None]
            at = min((-(-d // NS_PER_MS) for d in due if d is not None), default=end)
            self.ms = min(max(at, self.ms + 1), end)
            for node in self.nodes:
                if node is not None:
                    node.handle_timer(self.now)
            self.step()

    def holders(self, key: str = "db") -> list[int]:
        return [i for i, node in enumerate(self.nodes) if node is not None and node.held(key, self.now) is not None]

    def want(self, i: int, key: str = "db") -> None:
        assert self.node(i).want(key, self.now) is None
        self.step()

    def drop(self, i: int, key: str = "db") -> None:
        self.node(i).drop(key, self.now)
        self.step()

    def isolate(self, i: int) -> None:
        self.cut |= {(i, j) for j in range(len(self.nodes))} | {(j, i) for j in range(len(self.nodes))}

    def next_roster(self, voters: Sequence[int], learn: Sequence[int] = (), **changes: object) -> None:
        ids = tuple(IDENTITIES[i].id for i in voters)
        self.roster = msgspec.structs.replace(
            self.roster, number=self.roster.number + 1, epoch=self.roster.epoch + 1, voters=ids, **changes
        )
        self.chain = [*self.chain, sign_roster(self.roster, self.mesh_id, ROOT)]
        for i in learn:
            if (node := self.nodes[i]) is not None:
                node.learn(self.chain, self.now)
        self.step()

    def of(self, i: int, kind: type[T]) -> list[T]:
        return [news for news in self.news[i] if isinstance(news, kind)]
