"""The rule that orders claims."""

from cloudisense.keys.certificate import Certificate
from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.member import Alive, Left, Member, Suspect, accusation_counts, alive_wins, departure_counts

NODE = issue_for_tests(1).valid.identity.id
CERTIFICATE = Certificate(NODE, "n", ("member",), (), 0, 1, NODE)


def alive(incarnation: int) -> Alive:
    return Alive(NODE, "n", "10.0.0.1", 1, incarnation, 1, bytes(32))


def member(incarnation: int) -> Member:
    return Member(NODE, alive(incarnation), b"", b"", CERTIFICATE, "alive", 0)


def test_only_a_higher_incarnation_replaces_a_claim_whatever_the_state() -> None:
    assert alive_wins(None, alive(1))
    known = member(5)
    for state in ("alive", "suspect", "dead", "left"):
        known.state = state
        assert [alive_wins(known, alive(i)) for i in (4, 5, 6)] == [False, False, True]


def test_who_left_with_a_later_incarnation_than_we_knew_comes_back_only_above_that() -> None:
    known = member(5)
    known.state, known.left_at = "left", 7
    assert [alive_wins(known, alive(i)) for i in (6, 7, 8)] == [False, False, True]


def test_an_accusation_counts_once_for_what_is_claimed_now_of_who_is_present() -> None:
    known = member(5)
    assert [accusation_counts(known, Suspect(NODE, i, b"x", "silent")) for i in (4, 5, 6, 2**62)] == [False, True, False, False]
    known.evidence[b"x"] = "silent"
    assert not accusation_counts(known, Suspect(NODE, 5, b"x", "silent"))
    assert accusation_counts(known, Suspect(NODE, 5, b"y", "silent"))
    assert accusation_counts(known, Suspect(NODE, 5, b"x", "mute")), "the same accuser has seen something new"
    known.state = "dead"
    assert not accusation_counts(known, Suspect(NODE, 5, b"y", "silent"))


def test_a_departure_counts_once_and_not_for_an_older_incarnation() -> None:
    known = member(5)
    assert [departure_counts(known, Left(NODE, i)) for i in (4, 5, 6)] == [False, True, True]
    known.state = "dead"
    assert departure_counts(known, Left(NODE, 5))
    known.state = "left"
    assert not departure_counts(known, Left(NODE, 6))


def test_suspects_are_still_counted_on() -> None:
    known = member(1)
    present = {}
    for state in ("alive", "suspect", "dead", "left"):
        known.state = state
        present[state] = known.present
    assert present == {"alive": True, "suspect": True, "dead": False, "left": False}
    assert known.address == ("10.0.0.1", 1)
