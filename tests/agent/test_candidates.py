"""Only what was measured to reach the goal is ever proposed."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.agent.candidates import MAX_CANDIDATES, MAX_STEPS, RISKS, candidates_for
from cloudisense.agent.catalogue import Catalogue, DeclaredPath
from cloudisense.agent.plan import Measured
from cloudisense.host.catalogue import builtin_actions

PATHS = tuple(DeclaredPath(f"/v/{role}{i}", role, "/v") for role in ("cache", "temp", "logs") for i in range(4))
CATALOGUE = Catalogue(builtin_actions(), PATHS)
STEPS = CATALOGUE.steps_for("disk_full", "/v")
SIGNATURES = sorted({CATALOGUE.signature(step) for step in STEPS})

amounts = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 20)), min_size=len(STEPS), max_size=len(STEPS))


@given(amounts, st.integers(0, 250), st.integers(0, 50), st.frozensets(st.sampled_from(SIGNATURES), max_size=3))
def test_properties(freed: list[tuple[int, int]], goal_bytes: int, goal_inodes: int, excluded: frozenset[str]) -> None:
    measured = tuple((step, Measured(b, i, 1, "")) for step, (b, i) in zip(STEPS, freed, strict=True))
    known = dict(measured)
    found = candidates_for(CATALOGUE, measured, goal_bytes, goal_inodes, excluded)
    assert len(found) <= MAX_CANDIDATES
    assert [RISKS.index(c.risk) for c in found] == sorted(RISKS.index(c.risk) for c in found), "the mildest first"
    for c in found:
        assert 1 <= len(c.steps) <= MAX_STEPS
        assert c.measured.frees_bytes == sum(known[step].frees_bytes for step in c.steps) >= goal_bytes
        assert c.measured.frees_inodes == sum(known[step].frees_inodes for step in c.steps) >= goal_inodes
        assert len({step.value("path") for step in c.steps}) == len(c.steps), "no folder counts twice"
        assert c.signature not in excluded
        assert all(known[step].frees_bytes or known[step].frees_inodes for step in c.steps)
        assert not {CATALOGUE.signature(step) for step in c.steps} & excluded, "what failed alone is no part of a plan"


def measured(**freed: int) -> tuple:
    """Bytes by folder name; every step on that folder frees as much."""
    return tuple((s, Measured(freed.get(s.value("path")[3:], 0), 0, 1, s.value("path"))) for s in STEPS)


def test_one_step_is_better_than_several() -> None:
    found = candidates_for(CATALOGUE, measured(cache0=100, logs0=60, logs1=60), 100, 0, frozenset())
    assert [c.signature for c in found] == ["clean_cache role=cache"]


def test_several_where_one_is_not_enough() -> None:
    [found] = candidates_for(CATALOGUE, measured(cache0=60, temp0=50, logs0=10), 100, 0, frozenset())
    assert [s.value("path") for s in found.steps] == ["/v/cache0", "/v/temp0"], "largest first, and no more than needed"
    assert found.measured.detail == "/v/cache0, then /v/temp0"
    assert " + " in found.signature


def test_what_failed_gives_way_to_a_combination_without_it() -> None:
    freed = measured(temp0=200, cache0=60, logs0=60)
    failed = frozenset(f"purge_old_files age={age} role=temp" for age in ("1h", "6h", "1d", "7d"))
    [found] = candidates_for(CATALOGUE, freed, 100, 0, failed)
    assert {s.action for s in found.steps} == {"clean_cache", "compress_logs"}
    assert candidates_for(CATALOGUE, freed, 100, 0, failed | {found.signature}) == ()


def test_nothing_reaches() -> None:
    assert candidates_for(CATALOGUE, measured(cache0=60, temp0=30), 100, 0, frozenset()) == ()
    assert candidates_for(CATALOGUE, measured(cache0=100), 100, 1, frozenset()) == (), "bytes are no inodes"
    assert candidates_for(CATALOGUE, (), 0, 0, frozenset()) == ()
