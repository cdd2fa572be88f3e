"""All incidents that a node knows, and what they teach."""

import msgspec
import pytest

from cloudisense.agent import ledger as module
from cloudisense.agent.entries import Alert
from cloudisense.agent.incident import incident_id, incident_key
from cloudisense.agent.ledger import Ledger, parse_body
from cloudisense.agent.memory import Memory
from cloudisense.keys.encoding import pack
from cloudisense.keys.errors import RemoteProtocolError


def book(rig, own=None, limit: int = 100) -> Ledger:
    return Ledger(own or rig.subject.id, Memory(), lambda node: "somebody", limit)


def tell(ledger: Ledger, rig, body, who=None, **more):
    return ledger.fold(rig.entry(who or rig.subject, body, **more), body)


def heal(ledger: Ledger, rig) -> None:
    for body, who in (
        (rig.alert(), None),
        (rig.help(), None),
        (rig.offer(), rig.helper),
        (rig.capability(), None),
        (rig.intent(), None),
        (rig.outcome(), None),
        (rig.closed(), None),
    ):
        assert tell(ledger, rig, body, who) is not None


def alert_of(who, wall_ms: int, target: str = "/vol") -> Alert:
    key = incident_key(who.id, "disk_full", target)
    return Alert(incident_id(key, wall_ms), key, "disk_full", target, "f", "s", 1, 1, 1, 1)


@pytest.mark.parametrize(("who", "healed"), [("subject", 1.0), ("helper", 1.0), ("other", 0.5)])
def test_everyone_learns_and_those_who_took_part_learn_more(rig, who: str, healed: float) -> None:
    ledger = book(rig, getattr(rig, who).id)
    heal(ledger, rig)
    assert ledger._memory.record("disk_full roles=temp", rig.candidate().signature, rig.wall_ms).healed == healed
    _, history = ledger.rows(ledger.incidents[rig.incident])
    assert history.table == "history"
    assert (history.row["signature"], history.row["action"], history.row["outcome"]) == (
        rig.candidate().signature,
        "clean_cache",
        "resolved",
    )


def test_what_failed_is_learned_too(rig) -> None:
    ledger = book(rig)
    for body, who in ((rig.alert(), None), (rig.help(), None), (rig.offer(), rig.helper), (rig.capability(), None), (rig.failed(), None)):
        tell(ledger, rig, body, who)
    assert ledger._memory.record("disk_full roles=temp", rig.candidate().signature, rig.wall_ms).failed == 1.0
    assert len(ledger.rows(ledger.incidents[rig.incident])) == 1, "no history before the end"


def test_nobody_opens_an_incident_for_another(rig) -> None:
    """Else a forger whose copy came first would own it, and its subject could not speak of it."""
    ledger = book(rig)
    assert tell(ledger, rig, rig.alert(), rig.other) is None
    assert tell(ledger, rig, alert_of(rig.other, rig.wall_ms + 1), rig.other) is None, "the id is of another time"
    disguised = msgspec.structs.replace(alert_of(rig.other, rig.wall_ms), key=rig.key)
    assert tell(ledger, rig, disguised, rig.other) is None, "it would keep the subject from seeing its own trouble as new"
    assert not ledger.incidents
    assert tell(ledger, rig, rig.alert()) is not None
    assert tell(ledger, rig, rig.alert()) is None, "once"


def test_words_before_the_alert_wait_for_it(rig) -> None:
    ledger = book(rig)
    for body, who in ((rig.offer(), rig.helper), (rig.help(), rig.subject)):
        assert tell(ledger, rig, body, who, generation=2) is None
    incident = tell(ledger, rig, rig.alert())
    assert incident is not None and incident.state == "offered"
    assert ledger._early == []


def test_words_of_what_never_comes_are_bounded(rig, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_EARLY", 5)
    ledger = book(rig)
    for _ in range(9):
        tell(ledger, rig, rig.offer(), rig.helper)
    assert len(ledger._early) == 5


def test_a_flood_drives_out_only_its_own(rig) -> None:
    ledger = book(rig, rig.subject.id, limit=10)
    tell(ledger, rig, rig.alert())
    honest = alert_of(rig.helper, rig.wall_ms)
    tell(ledger, rig, honest, rig.helper)
    for i in range(40):
        tell(ledger, rig, alert_of(rig.other, rig.wall_ms, f"/{i}"), rig.other)
    assert len(ledger.incidents) == 10
    assert {rig.incident, honest.incident} <= ledger.incidents.keys()


def test_our_own_go_last(rig) -> None:
    ledger = book(rig, rig.subject.id, limit=8)
    for i in range(6):
        tell(ledger, rig, alert_of(rig.subject, rig.wall_ms, f"/own{i}"))
    for i in range(6):
        tell(ledger, rig, alert_of(rig.other, rig.wall_ms, f"/{i}"), rig.other)
    assert sum(i.subject == rig.subject.id for i in ledger.incidents.values()) == 6


def test_ended_ones_go_first(rig) -> None:
    ledger = book(rig, limit=3)
    heal(ledger, rig)
    for i in range(3):
        tell(ledger, rig, alert_of(rig.other, rig.wall_ms + 9, f"/{i}"), rig.other, wall_ms=rig.wall_ms + 9)
    assert rig.incident not in ledger.incidents and len(ledger.incidents) == 3


def test_open_with_key_and_recurrences(rig) -> None:
    ledger = book(rig)
    tell(ledger, rig, rig.alert())
    assert ledger.open_with_key(rig.key) is ledger.incidents[rig.incident]
    assert ledger.open_with_key("other") is None
    tell(ledger, rig, rig.closed())
    assert ledger.open_with_key(rig.key) is None
    assert ledger.resolved_since(rig.key, rig.wall_ms) == 1
    assert ledger.resolved_since(rig.key, rig.wall_ms + 1) == 0
    assert ledger.resolved_since("other", 0) == 0


def test_parse_body(rig) -> None:
    assert parse_body(rig.entry(rig.subject, rig.alert())) == rig.alert()
    assert parse_body(rig.entry(rig.subject, rig.capability())) == rig.capability()
    assert parse_body(rig.feeds.append(rig.subject, 1, 0, "of a later version", b"\xff")) is None
    for kind in ("alert", "capability", "offer"):
        with pytest.raises(RemoteProtocolError, match="malformed"):
            parse_body(rig.feeds.append(rig.subject, 1, 0, kind, b"\xff"))


@pytest.mark.parametrize("wall_ms", [-1, 2**53, 2**63])
def test_a_time_that_no_table_holds_is_refused(rig, wall_ms: int) -> None:
    with pytest.raises(RemoteProtocolError, match="malformed entry"):
        parse_body(rig.entry(rig.subject, rig.help(), wall_ms=wall_ms))


def test_replay_passes_over_junk(rig) -> None:
    ledger = book(rig)
    ledger.replay([rig.feeds.append(rig.subject, 1, 0, "alert", pack([1])), rig.entry(rig.subject, rig.alert(), 2)])
    assert rig.incident in ledger.incidents
