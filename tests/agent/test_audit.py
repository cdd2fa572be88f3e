"""The audit names the first broken link, a fork, a missing outcome, and says where a feed begins."""

from cloudisense.agent.audit import Problem, audit
from cloudisense.agent.entries import Intent, Outcome
from cloudisense.agent.plan import Step
from cloudisense.keys.encoding import pack
from cloudisense.keys.testing import issue_for_tests
from cloudisense.mesh.checkpoint import Bundle, cosign, state
from cloudisense.mesh.feed import Entry, Feeds
from cloudisense.mesh.limits import LAN

KEYS = issue_for_tests(1)
ALICE, BOB = KEYS.member("a").identity, KEYS.member("b").identity
Row = tuple[bytes, int, int, bytes]


def feed(*bodies: bytes, kind: str = "note") -> tuple[Feeds, list[Entry]]:
    feeds = Feeds(KEYS.mesh_id, LAN)
    made = [feeds.append(ALICE, 7, 0, kind, body) for body in bodies]
    feeds.made_durable(made)
    return feeds, made


def rows(entries: list[Entry]) -> list[Row]:
    return [(e.node, e.reference.generation, e.reference.number, e.data) for e in entries]


def test_a_whole_feed_is_in_order() -> None:
    _, made = feed(b"0", b"1", b"2")
    found = audit(KEYS.mesh_id, rows(made), (), ())
    assert not found.problems
    assert [(f.first, f.entries, f.head) for f in found.feeds] == [(0, 3, made[-1].hash)]


def test_the_first_broken_link_is_named() -> None:
    _, made = feed(b"0", b"1", b"2", b"3")
    _, other = feed(b"0", b"x", b"y", b"z")
    flipped = made[1].data[:-1] + bytes([made[1].data[-1] ^ 1])
    cases = [
        (rows([made[0], made[2], made[3]]), 2, "entry 1 is missing"),
        (rows([made[0], other[1], made[2], made[3]]), 2, "broken link"),
        ([*rows(made[:1]), (ALICE.id, 7, 1, flipped), *rows(made[2:])], 1, "bad signature"),
        ([*rows(made[:1]), (ALICE.id, 7, 1, made[2].data)], 1, "entry of another place"),
        ([*rows(made[:1]), (ALICE.id, 7, 1, b"junk")], 1, "malformed envelope"),
    ]
    for given, number, what in cases:
        assert audit(KEYS.mesh_id, given, (), ()).problems == [Problem(ALICE.id, 7, number, what)]


def test_a_fork_is_named() -> None:
    _, made = feed(b"0", b"1")
    _, other = feed(b"0", b"x")
    assert audit(KEYS.mesh_id, rows(made), (), [(made[1].data, other[1].data)]).problems == [Problem(ALICE.id, 7, 1, "forked")]


def test_a_feed_begins_behind_its_checkpoint() -> None:
    feeds, made = feed(b"0", b"1", b"2")
    checkpoint = feeds.covering(ALICE.id, (7, 2))
    assert checkpoint is not None
    statement = state(ALICE, KEYS.mesh_id, checkpoint)
    bundle = pack(Bundle(statement, (cosign(BOB, KEYS.mesh_id, statement),)))
    found = audit(KEYS.mesh_id, rows(made[2:]), [bundle], ())
    assert not found.problems and [(f.first, f.entries, f.cosigners) for f in found.feeds] == [(2, 1, 1)]
    assert audit(KEYS.mesh_id, rows(made[2:]), (), ()).problems == [Problem(ALICE.id, 7, 2, "entry 0 is missing")]
    assert audit(KEYS.mesh_id, rows(made[2:]), [bundle[:-1] + bytes([bundle[-1] ^ 1])], ()).problems


def test_an_action_without_outcome_is_named() -> None:
    feeds = Feeds(KEYS.mesh_id, LAN)
    step = Step("clean", bytes(32), (("path", "/x"),))
    made = [feeds.append(ALICE, 7, 0, "intent", pack(Intent("i", b"n" * 16, index, step))) for index in (0, 1)]
    made.append(feeds.append(ALICE, 7, 0, "outcome", pack(Outcome("i", b"n" * 16, 0, "done", "", 1))))
    assert audit(KEYS.mesh_id, rows(made), (), ()).problems == [Problem(ALICE.id, 7, 1, "missing outcome")]
