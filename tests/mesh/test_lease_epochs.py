"""Epochs of the lease: sealed, begun, waited for, forced, and contradicted by the root."""

import pytest

from cloudisense.keys.errors import RemoteProtocolError
from cloudisense.mesh.epoch import Rivals, epoch_of, sign_forced
from cloudisense.mesh.lease_messages import EpochForced, Sealed
from cloudisense.mesh.lease_port import Behind, EpochBegun, LeaseHeld, LeaseWaits
from cloudisense.mesh.signatures import Envelopes
from tests.mesh.lease_group import D_MS, HOLD_MS, IDENTITIES, OPERATOR, Group


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
