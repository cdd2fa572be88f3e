"""Flaps against a plain model: when a failure is told late, and that it never waits without end."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloudisense.mesh.flap import Flaps
from cloudisense.mesh.instant import NS_PER_MS, Instant
from cloudisense.mesh.limits import Limits

LIMITS = Limits(members=4, flap_window_ms=1000, flap_hold_ms=100, flap_hold_max_ms=450)
NODES = [bytes([n]) * 32 for n in range(6)]


class FlapMachine(RuleBasedStateMachine):
    """The model keeps, for each node, the times of the failures in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.flaps = Flaps(LIMITS)
        self.now_ms = 1
        self.rows: dict[bytes, tuple[int, int]] = {}

    def now(self) -> Instant:
        return Instant(self.now_ms * NS_PER_MS, 0)

    def row(self, node: bytes) -> int:
        last_ms, row = self.rows.get(node, (0, 0))
        return row if row and self.now_ms - last_ms < LIMITS.flap_window_ms * 2 ** max(0, row - 1) else 0

    @rule(ms=st.integers(1, 5000))
    def wait(self, ms: int) -> None:
        self.now_ms += ms

    @rule(node=st.sampled_from(NODES))
    def fails(self, node: bytes) -> None:
        self.count(node)
        self.flaps.failed(node, self.now())

    def count(self, node: bytes) -> None:
        row = self.row(node) + 1
        if node not in self.rows and len(self.rows) >= LIMITS.members:
            del self.rows[min(self.rows, key=lambda n: (self.rows[n][0], n))]
        self.rows[node] = (self.now_ms, row)

    @rule(node=st.sampled_from(NODES))
    def comes_back_in_time(self, node: bytes) -> None:
        before = self.flaps.hold_ms(node, self.now())
        self.flaps.held(node, self.now())
        if before:
            self.count(node)
        else:
            assert self.flaps.hold_ms(node, self.now()) == 0, "who never failed is not held down for coming back"

    @invariant()
    def hold_follows_the_row(self) -> None:
        for node in NODES:
            row = self.row(node)
            hold_ms = self.flaps.hold_ms(node, self.now())
            assert hold_ms == (min(LIMITS.flap_hold_max_ms, LIMITS.flap_hold_ms * 2 ** (row - 1)) if row else 0)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert len(self.flaps._failures) <= LIMITS.members


TestFlaps = FlapMachine.TestCase


def test_the_first_failure_is_told_at_once_and_the_next_ones_later_and_later() -> None:
    flaps, node, now = Flaps(LIMITS), NODES[0], Instant(NS_PER_MS, 0)
    holds: list[int] = []
    for _ in range(5):
        holds.append(flaps.hold_ms(node, now))
        flaps.failed(node, now)
    assert holds == [0, 100, 200, 400, 450]


def test_peace_forgives() -> None:
    flaps, node = Flaps(LIMITS), NODES[0]
    flaps.failed(node, Instant(0, 0))
    assert flaps.hold_ms(node, Instant(999 * NS_PER_MS, 0)) == 100
    assert flaps.hold_ms(node, Instant(1000 * NS_PER_MS, 0)) == 0


def test_a_new_boot_is_a_new_life() -> None:
    flaps, node, now = Flaps(LIMITS), NODES[0], Instant(NS_PER_MS, 0)
    flaps.failed(node, now)
    flaps.rebooted(node)
    flaps.rebooted(NODES[1])
    assert flaps.hold_ms(node, now) == 0
