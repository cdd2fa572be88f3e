"""One lease among a few nodes: who holds, from when, until when, and what a crash leaves."""

import random

import pytest

from cloudisense.keys.encoding import pack
from cloudisense.mesh.grant import check_certificate
from cloudisense.mesh.instant import NS_PER_MS
from cloudisense.mesh.lease import Leases
from cloudisense.mesh.lease_messages import LeaseDenied, LeaseGranted, LeaseReleased, LeaseRequest
from cloudisense.mesh.lease_port import LeaseHeld, LeaseLost, LeaseWaits
from cloudisense.mesh.signatures import Envelopes
from cloudisense.mesh.voter import PER_HOLDER
from tests.mesh.lease_group import D_MS, HOLD_MS, IDENTITIES, Group


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
    group.run(300)
    group.want(1)
    denied = [m for _, j, m in group.sent if j == 1 and isinstance(m, LeaseDenied) and m.reason == "held"]
    assert denied and denied[0].left_ms == D_MS - 300 and denied[0].round == 1
    waits = group.of(1, LeaseWaits)[0]
    assert "held" in waits.reason and waits.wait_ns >= (D_MS - 300) * NS_PER_MS


def test_two_that_refuse_each_other_try_again_soon() -> None:
    """Found by the simulator (seed 1533): each waited a whole lease for one that the other never had."""
    group = Group(2)
    group.held_back = lambda i, j, message: isinstance(message, LeaseRequest)
    group.want(0)
    group.want(1)
    group.held_back = lambda *_: False
    for i, j, message in group.waiting:
        group.deliver(i, j, message)
    group.step()
    assert group.holders() == []
    group.run(D_MS // 4)
    assert len(group.holders()) == 1


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
