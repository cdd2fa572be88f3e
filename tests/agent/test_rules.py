"""Fixes that are right whenever they are possible."""

import msgspec

from cloudisense.agent import rules


def test_a_cache_goes_first(rig) -> None:
    cache, purge = rig.candidate(0), rig.candidate(2)
    ranked = rules.rank("disk_full", (purge, cache))
    assert ranked is not None
    ranking, confidence = ranked
    assert (ranking.order, ranking.planner, confidence) == ((1,), "rules", rules.CONFIDENCE)
    assert "a cache can be built again" in ranking.reasoning


def test_nothing_to_say(rig) -> None:
    cache, purge = rig.candidate(0), rig.candidate(2)
    assert rules.rank("disk_full", (purge,)) is None
    assert rules.rank("disk_full", ()) is None
    assert rules.rank("fire", (cache,)) is None
    both = msgspec.structs.replace(cache, steps=(*cache.steps, *purge.steps))
    assert rules.rank("disk_full", (both,)) is None, "a rule covers the whole plan or nothing of it"


def test_every_rule_is_for_an_action_that_ships(rig) -> None:
    for kind, fixes in rules.FIXES.items():
        for action, _ in fixes:
            assert kind in rig.catalogue.actions[action].helps
