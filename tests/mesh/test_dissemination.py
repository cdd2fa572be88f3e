"""Piggyback and Outbox, against what they promise."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloudisense.mesh.dissemination import Outbox, Piggyback, Shipment, retransmit_limit
from cloudisense.mesh.feed import Reference
from cloudisense.mesh.limits import Limits

SUBJECTS = st.sampled_from([b"a", b"b", b"c", b"d"])
BUDGET, LIMIT = 300, 4


def test_retransmit_limit_grows_with_the_logarithm() -> None:
    assert [retransmit_limit(Limits(), n) for n in (1, 9, 10, 99, 100, 2000)] == [4, 4, 8, 8, 12, 16]


class Claims(RuleBasedStateMachine):
    """A model of what waits: for each subject and author, the claim and how often it went out."""

    def __init__(self) -> None:
        super().__init__()
        self.queue, self.model = Piggyback(), {}

    @rule(subject=SUBJECTS, author=SUBJECTS, rest=st.binary(max_size=120))
    def add(self, subject: bytes, author: bytes, rest: bytes) -> None:
        self.queue.add(subject, author, (subject + author, rest))
        self.model[subject, author] = [0, (subject + author, rest)]

    @rule(subject=SUBJECTS)
    def drop(self, subject: bytes) -> None:
        self.queue.drop(subject)
        self.model = {key: value for key, value in self.model.items() if key[0] != subject or key[1] == subject}

    @rule(budget=st.integers(0, BUDGET))
    def take(self, budget: int) -> None:
        taken = self.queue.take(budget, LIMIT)
        assert sum(len(claim) + len(certificate) + 8 for claim, certificate in taken) <= budget
        sent = [(claim[:1], claim[1:]) for claim, _ in taken]
        assert len(set(sent)) == len(sent)
        assert [self.model[key][1] for key in sent] == list(taken), "the newest claim of each"
        assert [self.model[key][0] for key in sent] == sorted(self.model[key][0] for key in sent), "the least sent first"
        left_room = budget - sum(len(claim) + len(certificate) + 8 for claim, certificate in taken)
        for key, (_, (claim, certificate)) in self.model.items():
            assert key in sent or len(claim) + len(certificate) + 8 > left_room, "what fitted was left behind"
        for key in sent:
            self.model[key][0] += 1
            if self.model[key][0] == LIMIT:
                del self.model[key]

    @invariant()
    def as_many_wait(self) -> None:
        assert len(self.queue) == len(self.model)


TestClaims = Claims.TestCase


def test_a_claim_that_fits_no_datagram_does_not_hold_up_the_others() -> None:
    queue = Piggyback()
    queue.add(b"a", b"a", (b"x" * 400, b""))
    queue.add(b"b", b"b", (b"small", b""))
    assert queue.take(BUDGET, LIMIT) == ((b"small", b""),)


NODES = st.sampled_from([b"a", b"b", b"c"])
NUMBERS = st.integers(0, 3)


@given(
    st.lists(st.tuples(NUMBERS, st.sets(NODES, min_size=1))),
    st.lists(st.one_of(st.tuples(st.just("got"), NUMBERS, NODES), st.tuples(st.just("gone"), st.just(0), NODES))),
)
def test_an_entry_is_delivered_once_when_nobody_is_waited_for(shipments: list, steps: list) -> None:
    outbox, waiting = Outbox(), {number: set(nodes) for number, nodes in shipments}
    for number, nodes in waiting.items():
        outbox.open[Reference(b"us", 1, number)] = Shipment(b"", set(nodes))
    for word, number, node in steps:
        reference = Reference(b"us", 1, number)
        if word == "got":
            done = outbox.acknowledge(reference, node)
            before = waiting.get(number, set())
            assert done == (before == {node})
            touched = {number}
        else:
            delivered = outbox.give_up_on(node)
            assert delivered == [Reference(b"us", 1, n) for n in waiting if waiting[n] == {node}]
            touched = set(waiting)
        for n in touched & waiting.keys():
            waiting[n].discard(node)
        waiting = {n: nodes for n, nodes in waiting.items() if nodes}
        assert {r.number: s.waiting for r, s in outbox.open.items()} == waiting
