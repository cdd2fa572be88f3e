"""The lease among nodes whose messages, disks and clocks the test moves by hand."""

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import pytest

from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.keys.identity import Identity
from cloudisense.keys.roster import Issuer, Roster, mesh_id_of, sign_roster
from cloudisense.keys.testing import HashRng, issue_for_tests
from cloudisense.mesh.effects import Persist
from cloudisense.mesh.epoch import Rivals, epoch_of, sign_forced
from cloudisense.mesh.grant import check_certificate
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.lease import Leases, Tell
from cloudisense.mesh.lease_messages import EpochForced, LeaseDenied, LeaseGranted, LeaseMessage, LeaseReleased, LeaseRequest, Sealed
from cloudisense.mesh.lease_port import Behind, EpochBegun, LeaseHeld, LeaseLost, LeaseWaits, News
from cloudisense.mesh.signatures import Envelopes
from cloudisense.mesh.voter import PER_HOLDER

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
        self.disks[i] |= {str(put.row["key"]): bytes(put.row["value"]) for put in effect.rows if isinstance(put.row["value"], bytes)}
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


def test_quorum_certificate_and_one_holder() -> None:
    group = Group(3)
    group.want(0)
    assert group.holders() == [0]
    group.want(1)
    assert group.holders() == [0]
    lease = group.node(0).held("db", group.now)
    assert lease is not None
    assert lease.until_ns == (D_MS + HOLD_MS) * NS_PER_MS + lease.until_ns % NS_PER_MS
    anybody = Envelopes(IDENTITIES[5], group.mesh_id)
    grant = check_certificate(anybody, group.node(2).epochs, lease.certificate, lambda _: False)
    assert (grant.key, grant.token) == ("db", lease.token)
    assert lease.token[:2] == (1, 1)


def test_a_restarted_voter_keeps_still_for_one_lease() -> None:
    group = Group(1, quiet=False)
    group.want(0)
    group.run(D_MS - 1)
    assert group.holders() == []
    group.run(D_MS // 4 + 5)
    assert group.holders() == [0], "one node is its own quorum"


def test_two_nodes_hold_both_or_none() -> None:
    group = Group(2)
    group.cut = {(0, 1)}
    group.want(0)
    group.want(1)
    group.run(3 * D_MS)
    assert group.holders() == []
    group.cut.clear()
    group.run(D_MS)
    assert len(group.holders()) == 1


def test_a_minority_never_holds() -> None:
    group = Group(5)
    group.isolate(0)
    group.isolate(1)
    group.want(0)
    group.want(1)
    group.want(2)
    group.run(3 * D_MS)
    assert group.holders() == [2]


def test_it_is_renewed_and_ends_in_time_without_a_quorum() -> None:
    group = Group(3)
    group.want(0)
    group.run(4 * D_MS)
    token = group.of(0, LeaseHeld)[0].lease.token
    assert group.holders() == [0] and {news.lease.token for news in group.of(0, LeaseHeld)} == {token}
    group.isolate(0)
    group.want(1)
    group.run(D_MS // 3 + HOLD_MS + 2)
    assert group.holders() in ([], [1]) and isinstance(group.of(0, LeaseLost)[0], LeaseLost)
    group.run(D_MS)
    assert group.holders() == [1]
    assert group.of(1, LeaseHeld)[0].lease.token > token


def test_a_holder_that_wakes_late_holds_nothing() -> None:
    """No timer ran and no message came; the clock did."""
    group = Group(3)
    group.want(0)
    group.ms += HOLD_MS + 1
    assert group.node(0).held("db", group.now) is None
    group.node(0).handle_timer(group.now)
    group.step()
    assert group.of(0, LeaseLost)


def test_it_counts_from_sending() -> None:
    """The answers take nearly all of D; what is left is what counts."""
    group = Group(3)
    group.held_back = lambda i, j, message: isinstance(message, LeaseGranted)
    group.want(0)
    sent_ms = group.ms
    group.run(D_MS // 10)
    group.held_back = lambda *_: False
    for i, j, message in group.waiting:
        group.deliver(i, j, message)
    lease = group.node(0).held("db", group.now)
    assert lease is not None and lease.until_ns == sent_ms * NS_PER_MS + HOLD_MS * NS_PER_MS + lease.until_ns % NS_PER_MS


def test_answers_that_come_too_late_give_nothing() -> None:
    group = Group(3)
    group.held_back = lambda i, j, message: isinstance(message, LeaseGranted)
    group.want(0)
    late, group.waiting = group.waiting, []
    group.held_back = lambda *_: False
    group.isolate(0)
    group.ms += HOLD_MS + 1
    for i, j, message in late:
        group.deliver(i, j, message)
    assert group.holders() == []


def test_release_frees_at_once_and_keeps_the_promise() -> None:
    group = Group(3)
    group.want(0)
    first = group.of(0, LeaseHeld)[0].lease
    group.drop(0)
    assert group.of(0, LeaseLost)[0].reason == "released" and group.holders() == []
    group.want(1)
    assert group.holders() == [1]
    assert group.of(1, LeaseHeld)[0].lease.token.round > first.token.round
    assert all(group.node(i).voter.promised_round("db") == 2 for i in range(3))


def test_no_grant_before_its_promise_is_durable() -> None:
    group = Group(3)
    group.slow = {1, 2}
    group.want(0)
    assert [type(m) for i, _, m in group.sent if i in (1, 2)] == [] and group.holders() == []
    group.sync(1)
    group.step()
    assert group.holders() == [0]
    group.crash(2)
    group.boot(2)
    assert group.node(2).voter.promised_round("db") == 0, "its write was lost, and nobody was told of it"


def test_a_round_is_durable_before_it_is_sent_and_used_by_one_boot() -> None:
    group = Group(3)
    group.slow = {0}
    group.want(0)
    assert not [m for i, _, m in group.sent if i == 0]
    group.slow = set()
    group.step()
    first = group.of(0, LeaseHeld)[0].lease.token
    group.crash(0)
    group.boot(0)
    group.want(0)
    assert group.of(0, LeaseHeld)[-1].lease.token.round > first.round, "its own older grants do not stand in its way"


def test_a_late_request_after_the_release_frees_the_voter_again() -> None:
    """A voter hears of the release first and of the request later: it must not keep the key for one that is gone."""
    group = Group(3)
    group.held_back = lambda i, j, message: j == 2 and isinstance(message, LeaseRequest)
    group.want(0)
    group.drop(0)
    group.held_back = lambda *_: False
    (i, j, late) = group.waiting[0]
    group.deliver(i, j, late)
    group.step()
    group.cut = {(1, 0), (0, 1)}
    group.want(1)
    group.run(D_MS // 10)
    assert group.holders() == [1]


def test_refusals_say_why_and_how_long() -> None:
    group = Group(3)
    group.want(0)
    group.run(100)
    group.want(1)
    denied = [m for _, j, m in group.sent if j == 1 and isinstance(m, LeaseDenied) and m.reason == "held"]
    assert denied and denied[0].left_ms == D_MS - 100 and denied[0].round == 1
    waits = group.of(1, LeaseWaits)[0]
    assert "held" in waits.reason and waits.wait_ns >= (D_MS - 100) * NS_PER_MS


def test_a_holder_has_so_many_leases_and_no_more() -> None:
    group = Group(1)
    for i in range(PER_HOLDER):
        group.want(0, f"k{i}")
    assert not group.node(0).want("one more", group.now)
    request = LeaseRequest("one more", 1, 1, bytes(16))
    group.node(0).handle(IDENTITIES[0].id, request, group.now)
    assert group.node(0).voter.promised_round("one more") == 0
    with pytest.raises(ValueError, match="not a key"):
        group.node(0).want("\n", group.now)


def test_an_absurd_round_does_not_use_up_the_key() -> None:
    group = Group(2, voters=1)
    group.deliver(1, 0, LeaseRequest("db", 1, 2**53 - 1, bytes(16)))
    group.step()
    assert [m.reason for _, _, m in group.sent if isinstance(m, LeaseDenied)] == ["round too far"]
    group.want(0)
    assert group.holders() == [0]


# -- epochs ----------------------------------------------------------------------------------------------------------------


def test_a_new_epoch_waits_for_the_old_leases_and_begins_above_their_rounds() -> None:
    group = Group(5, voters=3)
    group.want(0)
    group.run(100)
    old = group.of(0, LeaseHeld)[0].lease
    group.next_roster([2, 3, 4], learn=range(5))
    begun = [i for i in range(5) if group.of(i, EpochBegun)]
    assert begun == [2, 3, 4]
    group.want(4)
    assert group.holders() == [0], "the old holder has what is left of its time"
    group.run(HOLD_MS - 101)
    assert group.holders() == [0], "and not renewed"
    group.run(D_MS)
    assert len(group.holders()) == 1
    new = group.node(group.holders()[0]).held("db", group.now)
    assert new is not None and new.token.epoch == 2 and new.token.round > old.token.round


def test_without_outstanding_grants_there_is_nothing_to_wait_for() -> None:
    group = Group(2, voters=1)
    group.next_roster([0, 1], learn=[0, 1])
    group.want(1)
    assert group.holders() == [1]


def test_an_epoch_does_not_begin_without_a_quorum_of_seals() -> None:
    group = Group(4, voters=3)
    group.isolate(0)
    group.isolate(1)
    group.next_roster([2, 3], learn=range(4))
    group.want(3)
    group.run(3 * D_MS)
    assert not any(group.of(i, EpochBegun) for i in range(4)) and group.holders() == []
    group.cut.clear()
    group.run(D_MS)
    assert group.holders() == [3]


def test_a_seal_is_durable_before_it_is_said_and_survives_a_restart() -> None:
    group = Group(2, voters=1)
    group.slow = {0}
    group.next_roster([0, 1], learn=[0, 1])
    group.run(D_MS)
    assert not [m for i, _, m in group.sent if i == 0 and isinstance(m, Sealed)]
    group.slow = set()
    group.step()
    assert [m for i, _, m in group.sent if i == 0 and isinstance(m, Sealed)]
    group.crash(0)
    group.boot(0, group.chain[:1])  # even with the old roster
    group.run(D_MS)
    group.isolate(1)
    group.want(0)
    group.run(2 * D_MS)
    assert group.holders() == [] and group.of(0, LeaseWaits)[-1].reason == "sealed"


def test_skipped_epochs_one_by_one_and_late_learners() -> None:
    """1 -> 2 -> 3 -> 5 voters; some nodes learn of the last epoch only, and one is down through all of it."""
    group = Group(5, voters=1)
    group.want(0)
    group.crash(4)
    for voters in ([0, 1], [0, 1, 2], [0, 1, 2, 3, 4]):
        group.next_roster(voters)
    for i in range(4):
        group.node(i).learn(group.chain, group.now)
    group.step()
    group.run(2 * D_MS)
    assert len(group.holders()) == 1
    group.boot(4)
    assert isinstance(group.of(4, EpochBegun)[0], EpochBegun)
    group.run(2 * D_MS)
    group.isolate(0)
    group.isolate(1)
    group.want(2)
    group.run(3 * D_MS)
    assert [i for i in group.holders() if i > 1] == group.holders() != [], "the late one makes up the quorum"


def test_behind_is_told() -> None:
    group = Group(2)
    group.next_roster([0], learn=[0])
    group.want(0)
    group.node(1).want("db", group.now)
    group.step()
    assert Behind(IDENTITIES[0].id) in group.news[1]


def test_a_forced_epoch_waits_a_whole_lease_and_keeps_the_operators_word() -> None:
    group = Group(3)
    group.want(0)
    lost = group.of(0, LeaseHeld)[0].lease.token
    group.crash(0)
    group.crash(1)
    group.next_roster([2], learn=[2])
    group.want(2)
    group.run(2 * D_MS)
    assert group.holders() == []
    forced = sign_forced(Envelopes(OPERATOR, group.mesh_id), epoch_of(group.roster), 1)
    group.node(2).force(forced, group.now)
    group.step()
    assert group.of(2, EpochBegun) == [EpochBegun(2, True)]
    assert forced in group.disks[2]["lease/tenure"]
    group.run(D_MS - 1)
    assert group.holders() == []
    group.run(D_MS)
    new = group.node(2).held("db", group.now)
    assert new is not None and new.token.round > lost.round


def test_only_an_operator_can_force() -> None:
    group = Group(2)
    group.crash(0)
    group.next_roster([1], learn=[1])
    forced = sign_forced(Envelopes(IDENTITIES[0], group.mesh_id), epoch_of(group.roster), 1)
    with pytest.raises(RemoteProtocolError, match="no operator"):
        group.node(1).force(forced, group.now)


def test_two_successors_signed_by_the_root_halt_everything_for_good() -> None:
    group = Group(1)
    group.want(0)
    start = group.chain
    group.next_roster([0, 1])
    one = tuple(group.chain)
    group.chain, group.roster = start, Group(1, quiet=False).roster
    group.next_roster([0, 2])
    two = tuple(group.chain)
    assert not group.node(0).halt(Rivals(one, tuple(start)), group.mesh_id, group.now)
    assert group.holders() == [0]
    assert group.node(0).halt(Rivals(one, two), group.mesh_id, group.now)
    group.step()
    assert group.holders() == []
    group.crash(0)
    group.boot(0, start)
    group.want(0)
    group.run(3 * D_MS)
    assert group.holders() == []


def test_a_damaged_promise_stops_the_voter() -> None:
    group = Group(1)
    group.want(0)
    for key in ("lease/promise/0", "lease/tenure"):
        with pytest.raises(ValueError, match="damaged"):
            Leases(Envelopes(IDENTITIES[0], group.mesh_id), group.chain, random.Random(1), group.disks[0] | {key: pack(b"?")}, group.now)


def test_what_an_earlier_boot_was_granted_outlasts_a_release_by_the_next() -> None:
    """Found by the simulator (seeds 277 and 863): the next boot's release, and its double, freed what was left of the lease before."""
    group = Group(3)
    group.want(0)
    group.crash(0)
    group.cut = {(2, 0)}
    group.boot(0)
    group.want(0)
    for _ in range(2):
        group.deliver(0, 1, LeaseReleased("db", 1, 2))
        group.deliver(0, 2, LeaseReleased("db", 1, 2))
    group.want(1)
    group.run(D_MS - 20)
    assert group.holders() in ([], [0])
    group.isolate(0)
    group.run(2 * D_MS)
    assert group.holders() == [1]


def test_a_voter_that_missed_the_operators_word_hears_it_when_it_asks() -> None:
    """Found by the simulator (seed 101): it had the other's seal already, and so never asked it again."""
    group = Group(4)
    group.crash(0)
    group.crash(1)
    group.next_roster([2, 3], learn=[2, 3])
    group.held_back = lambda i, j, message: isinstance(message, EpochForced)
    group.node(2).force(sign_forced(Envelopes(OPERATOR, group.mesh_id), epoch_of(group.roster), 1), group.now)
    group.step()
    assert group.of(2, EpochBegun) and not group.of(3, EpochBegun)
    group.held_back = lambda *_: False
    group.run(D_MS)
    assert group.of(3, EpochBegun)


def test_an_epoch_after_a_forced_one_that_nobody_began() -> None:
    """Found by the simulator (seed 596): the operator's word for an epoch still vouches for what was below it."""
    group = Group(4, voters=2)
    group.crash(0)
    group.next_roster([1, 2], learn=[1, 2])
    word = sign_forced(Envelopes(OPERATOR, group.mesh_id), epoch_of(group.roster), 1)
    group.next_roster([2, 3], learn=[1, 2, 3])
    group.node(3).force(word, group.now)
    group.run(3 * D_MS)
    assert [i for i in range(4) if group.of(i, EpochBegun)] == [2, 3]
    group.want(3)
    group.run(D_MS)
    assert group.holders() == [3]
