"""How many vote, and what may die."""

import msgspec
import pytest

from cloudisense.keys import issue_for_tests
from cloudisense.mesh.voters import next_voters, tolerates, wanted

MESH = issue_for_tests(1)
FIRST = MESH.roster.voters[0]
NODES = [MESH.member(f"v{i}").identity.id for i in range(8)]


def test_the_ladder_of_the_design() -> None:
    assert [wanted(n) for n in (1, 2, 3, 4, 5, 6, 50)] == [1, 2, 3, 3, 5, 5, 5]
    assert [wanted(n, 7) for n in (6, 7, 50)] == [5, 7, 7] and wanted(50, 1) == 1 and wanted(50, 4) == 3


def test_voters_are_added_and_never_removed() -> None:
    assert next_voters(MESH.roster, 1, []) is None
    assert next_voters(MESH.roster, 2, NODES[:1]) == (FIRST, NODES[0])
    five = next_voters(MESH.roster, 9, NODES)
    assert five == (FIRST, *NODES[:4])
    assert next_voters(msgspec.structs.replace(MESH.roster, voters=five), 2, NODES) is None


def test_only_living_candidates_count() -> None:
    """Nine nodes, of which one besides the founder lives: three voters would leave nobody to spare."""
    assert next_voters(MESH.roster, 9, NODES[:1]) == (FIRST, NODES[0])
    three = msgspec.structs.replace(MESH.roster, voters=(FIRST, *NODES[:2]))
    assert next_voters(three, 9, NODES[:3]) is None, "four voters tolerate no more than three"


def test_a_revoked_voter_is_replaced_and_never_a_candidate() -> None:
    out = msgspec.structs.replace(MESH.roster, voters=(FIRST, NODES[0]), revoked=(NODES[0],))
    assert next_voters(out, 2, NODES[:2]) == (FIRST, NODES[1])


@pytest.mark.parametrize(("voters", "words"), [(1, "only voter"), (2, "none of 2"), (3, "1 of 3"), (5, "2 of 5"), (7, "3 of 7")])
def test_words(voters: int, words: str) -> None:
    assert words in tolerates(voters)
