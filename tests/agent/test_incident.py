"""One transition table, folded alike on every node, whatever the order in which the feeds come in."""

import random
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cloudisense.agent import incident as module
from cloudisense.agent.entries import Escalation
from cloudisense.agent.incident import ENDED, FOLDED, TRANSITIONS, Incident, State, incident_id, incident_key, opened
from cloudisense.agent.ledger import Ledger, parse_body
from cloudisense.agent.memory import Memory
from cloudisense.mesh.feed import Entry

WORDS = ("help", "capability", "intent", "outcome", "last outcome", "failed", "resolved", "cleared", "escalated")
OTHERS = ("offer", "escalation")


def begin(rig) -> Incident:
    return opened(rig.entry(rig.subject, rig.alert()), rig.alert())


def say(rig, incident: Incident, body, who=None, **more) -> bool:
    return incident.apply(rig.entry(who or rig.subject, body, **more), body)


def call(incident: Incident, generation: int | None = None, number: int | None = None) -> Escalation:
    word = incident.last_word
    return Escalation(incident.id, "wolf", word.generation if generation is None else generation, word.number if number is None else number)


# -- the table ---------------------------------------------------------------------------------------------------------


def test_the_table_has_no_way_out_of_an_end() -> None:
    assert {state for state, _ in TRANSITIONS} == set(get_args(State)) - ENDED
    assert set(TRANSITIONS.values()) == set(get_args(State)) - {"open"}
    assert {event for _, event in TRANSITIONS} == set(WORDS) | {"offer"}


@pytest.mark.parametrize("state", sorted(set(get_args(State)) - ENDED))
def test_every_state_can_end(state: State) -> None:
    for end in ENDED:
        assert TRANSITIONS[state, end] == end


@pytest.mark.parametrize("state", sorted(set(get_args(State)) - ENDED))
def test_every_state_can_be_healed_from(state: State) -> None:
    """Not only by giving up: a step can still be granted, or has been."""
    seen, left = {state}, [state]
    while left:
        here = left.pop()
        for (before, _), after in TRANSITIONS.items():
            if before == here and after not in seen:
                seen.add(after)
                left.append(after)
    assert "verifying" in seen | {state}


def test_the_way_of_a_healing(rig) -> None:
    incident = begin(rig)
    story = [
        (rig.help(), None, "seeking"),
        (rig.offer(), rig.helper, "offered"),
        (rig.capability(), None, "granted"),
        (rig.intent(), None, "acting"),
        (rig.outcome(), None, "verifying"),
        (rig.closed(), None, "resolved"),
    ]
    for body, who, state in story:
        assert say(rig, incident, body, who)
        assert incident.state == state
    assert incident.planned_by == rig.helper.id
    row = incident.row("subject").row
    assert (row["state"], row["plan"], row["used_before"], row["used_after"]) == ("resolved", rig.candidate().signature, 95, 50)


# -- who may say what --------------------------------------------------------------------------------------------------


class Life(RuleBasedStateMachine):
    """Anybody says anything, in any order: only the subject moves it, and an end is final."""

    @initialize()
    def begin(self) -> None:
        self.rig = RIGS[0]()
        self.incident = begin(self.rig)
        self.rounds = 0
        self.end = ""

    def bodies(self, kind: str):
        rig = self.rig
        self.rounds += kind == "help"
        return {
            "help": lambda: rig.help(self.rounds),
            "capability": rig.capability,
            "intent": rig.intent,
            "outcome": lambda: rig.outcome(verdict="failed"),
            "last outcome": rig.outcome,
            "failed": rig.failed,
            "offer": lambda: rig.offer(round=max(1, self.rounds)),
            "escalation": lambda: call(self.incident),
        }.get(kind, lambda: rig.closed(kind))()

    @rule(kind=st.sampled_from(WORDS))
    def subject(self, kind: str) -> None:
        before, body = self.incident.state, self.bodies(kind)
        took = say(self.rig, self.incident, body)
        event = "outcome" if kind == "last outcome" and self.incident.capability is None else kind
        expected = TRANSITIONS.get((before, event))
        if took:
            assert expected == self.incident.state or (kind == "help" and self.incident.state == "offered")
        else:
            assert self.incident.state == before
            assert expected is None or kind in ("intent", "outcome", "last outcome"), (before, kind)
        assert took or before in ENDED or kind not in ENDED

    @rule(kind=st.sampled_from([*WORDS, "escalation"]))
    def peer(self, kind: str) -> None:
        before = self.incident.state
        rounds = self.rounds
        assert not say(self.rig, self.incident, self.bodies(kind), self.rig.other) or kind == "escalation"
        self.rounds = rounds
        assert self.incident.state == before, "nobody else moves it"
        assert kind != "escalation" or self.incident.over

    @rule()
    def offer(self) -> None:
        before = self.incident.state
        say(self.rig, self.incident, self.bodies("offer"), self.rig.helper)
        assert self.incident.state == before or (before, self.incident.state) == ("seeking", "offered")

    @rule()
    def nonsense(self) -> None:
        before = self.incident.state
        body = msgspec.structs.replace(self.rig.closed(), state="open")
        assert not say(self.rig, self.incident, body)
        assert self.incident.state == before

    @invariant()
    def ended_is_final(self) -> None:
        if hasattr(self, "incident"):
            assert not self.end or self.incident.state == self.end
            self.end = self.incident.state if self.incident.ended else ""


RIGS: list = []


@pytest.fixture(autouse=True, scope="module")
def _rigs(make_rig) -> None:
    RIGS[:] = [make_rig]


TestLife = Life.TestCase


def test_a_peer_escalates_until_the_subject_speaks_again(rig) -> None:
    incident = begin(rig)
    assert say(rig, incident, call(incident), rig.other)
    assert incident.over and not incident.ended
    row = incident.row("s").row
    assert (row["state"], row["verdict"], row["escalated_to"], row["closed_ms"]) == ("escalated", "wolf", "operator", rig.wall_ms)
    assert say(rig, incident, rig.help())
    assert not incident.over
    assert incident.row("s").row["state"] == "seeking" and incident.row("s").row["closed_ms"] == 0


@pytest.mark.parametrize(("generation", "number"), [(1, 99), (2, 0), (0, 0)])
def test_an_escalation_of_what_was_never_said_does_not_hold(rig, generation: int, number: int) -> None:
    incident = begin(rig)
    assert not say(rig, incident, call(incident, generation, number), rig.other)
    assert not incident.over


def test_steps_of_another_capability_do_not_count(rig) -> None:
    incident = begin(rig)
    for body, who in ((rig.help(), None), (rig.offer(), rig.helper), (rig.capability(), None)):
        assert say(rig, incident, body, who)
    assert not say(rig, incident, rig.intent(nonce=b"x" * 16))
    assert say(rig, incident, rig.intent())
    assert not say(rig, incident, rig.outcome(nonce=b"x" * 16))
    assert incident.state == "acting"


def test_rounds_go_up(rig) -> None:
    """Or offers of a round that is over would count again."""
    incident = begin(rig)
    assert [say(rig, incident, rig.help(round)) for round in (0, 2, 2, 1, 3)] == [False, True, False, False, True]


def test_one_offer_of_a_helper_in_a_round(rig) -> None:
    incident = begin(rig)
    say(rig, incident, rig.help(1, 0, 1))
    assert say(rig, incident, rig.offer(0), rig.helper)
    assert not say(rig, incident, rig.offer(1), rig.helper)
    assert incident.offers[rig.helper.id].plan == rig.plan(0)
    for round in range(2, 40):
        say(rig, incident, rig.offer(round=round), rig.helper)
    assert len(incident._heard) == module.MAX_OFFERS_PER_NODE


def test_two_helpers_with_one_idea(rig) -> None:
    """Who planned is whose offer was taken, also when another node has offered the very same."""
    for holder in (rig.helper, rig.other):
        incident = begin(rig)
        for body, who in ((rig.help(), None), (rig.offer(), rig.helper), (rig.offer(), rig.other)):
            say(rig, incident, body, who)
        say(rig, incident, rig.capability(holder=holder.id))
        assert incident.planned_by == holder.id


def test_words_are_bounded_and_the_end_always_fits(rig, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_WORDS", 3)
    incident = begin(rig)
    assert [say(rig, incident, rig.help(i)) for i in range(1, 6)] == [True] * 3 + [False] * 2
    assert say(rig, incident, rig.closed("escalated"))


def test_dangling(rig) -> None:
    incident = begin(rig)
    for body, who in ((rig.help(), None), (rig.offer(), rig.helper), (rig.capability(), None)):
        say(rig, incident, body, who)
    assert incident.dangling == []
    say(rig, incident, rig.intent())
    assert incident.dangling == [rig.intent()]
    say(rig, incident, rig.outcome(verdict="failed"), generation=2)
    assert incident.dangling == []


def test_keys_are_of_one_subject_kind_and_target() -> None:
    keys = {incident_key(s, k, t) for s in (b"a", b"b") for k in ("disk_full", "inodes_full") for t in ("/a", "/b")}
    assert len(keys) == 8
    assert incident_id("k", 1) != incident_id("k", 2) != incident_id("l", 2)


# -- the order of arrival ----------------------------------------------------------------------------------------------


def draw(rig, rng: random.Random, kind: str, round_: int, nonce: bytes):
    holder = rng.choice([rig.helper, rig.other]).id
    i = rng.randrange(2)
    return {
        "help": lambda: rig.help(round_, 0, 1),
        "capability": lambda: rig.capability(rig.plan(i), nonce=nonce, holder=holder),
        "intent": lambda: rig.intent(0, nonce),
        "outcome": lambda: rig.outcome(0, "failed", nonce),
        "done": lambda: rig.outcome(0, "done", nonce),
        "failed": lambda: rig.failed(i),
        "closed": lambda: rig.closed(rng.choice(sorted(ENDED)), i),
    }[kind]()


def story(rig, rng: random.Random) -> list[list[Entry]]:
    """Feeds about one incident: a subject over three boots, two peers with clocks of their own."""
    drawn, subject = rig.wall_ms, []
    round_ = 0
    boots = [[rig.entry(rig.subject, rig.alert())], [], []]
    for generation, feed in enumerate(boots, 1):
        for _ in range(rng.randrange(0, 9)):
            kind = rng.choice(["help", "help", "capability", "capability", "intent", "outcome", "done", "failed", "closed"])
            round_ += kind == "help"
            drawn += rng.randrange(0, 50)
            body = draw(rig, rng, kind, round_, bytes([rng.randrange(2)]) * 16)
            if kind != "closed" or rng.random() < 0.3:
                feed.append(rig.entry(rig.subject, body, generation, drawn))
        subject += feed
    peers = []
    for who in (rig.helper, rig.other):
        skew, feed = rng.randrange(-10_000, 10_000), []
        for _ in range(rng.randrange(0, 6)):
            seen = rng.choice(subject).reference
            body = (
                Escalation(rig.incident, "wolf", seen.generation, seen.number)
                if rng.random() < 0.3
                else rig.offer(rng.randrange(2), rng.randrange(1, 4))
            )
            feed.append(rig.entry(who, body, 1, max(0, rig.wall_ms + skew + rng.randrange(500))))
        peers.append(feed)
    return [*boots, *peers]


def shuffled(feeds: list[list[Entry]], rng: random.Random) -> list[Entry]:
    """Any order in which each feed keeps its own."""
    left, order = [list(feed) for feed in feeds if feed], []
    while left:
        feed = rng.choice(left)
        order.append(feed.pop(0))
        left = [f for f in left if f]
    return order


def folded(rig, order: list[Entry], own: bytes, replay: bool = False) -> tuple:
    memory = Memory()
    ledger = Ledger(own, memory, lambda node: node.hex()[:4], 100)
    if replay:
        ledger.replay(order)
    else:
        for entry in order:
            body = parse_body(entry)
            assert body is not None
            ledger.fold(entry, body)
    incident = ledger.incidents[rig.incident]
    learned = [
        (round(r.healed, 9), round(r.failed, 9))
        for i in range(2)
        for r in [memory.record("disk_full roles=temp", rig.candidate(i).signature, rig.wall_ms)]
    ]
    return {name: getattr(incident, name) for name in FOLDED}, incident.row("s").row, incident.over, incident.call, learned


@given(st.integers(0, 2**32))
def test_any_order_of_feeds_gives_one_incident(make_rig, seed: int) -> None:
    rig, rng = make_rig(), random.Random(seed)
    feeds = story(rig, rng)
    # The subject's own words in their order, then all the rest: as the subject itself has it.
    first = folded(rig, [entry for feed in feeds for entry in feed], rig.subject.id)
    for _ in range(3):
        order = shuffled(feeds, rng)
        live = folded(rig, order, rig.subject.id)
        assert live[:4] == first[:4]
    assert folded(rig, order, rig.subject.id, replay=True)[:4] == first[:4], "a restart changes nothing"


@given(st.integers(0, 2**32))
def test_within_one_boot_everyone_learns_the_same(make_rig, seed: int) -> None:
    """What is learned hangs on what was possible when it was said; one boot's words come in in their order."""
    rig, rng = make_rig(), random.Random(seed)
    feeds = story(rig, rng)
    feeds = [feeds[0], *feeds[3:]]
    results = [folded(rig, shuffled(feeds, rng), rig.subject.id)[4] for _ in range(3)]
    assert results[0] == results[1] == results[2] == folded(rig, shuffled(feeds, rng), rig.subject.id, replay=True)[4]
