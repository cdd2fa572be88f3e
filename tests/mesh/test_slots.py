"""Change slots: never more than there are, any free one is found, and a full house is not asked without a pause."""

from cloudisense.keys.testing import HashRng
from cloudisense.mesh.lease_messages import LeaseRequest
from cloudisense.mesh.slots import Slots, slots_of
from tests.mesh.lease_group import D_MS, Group


class Seekers:
    """Every node of a group wants one of ``count`` slots."""

    def __init__(self, nodes: int, count: int) -> None:
        self.group = Group(nodes)
        self.slots = [Slots(self.group.node(i), HashRng(f"slots {i}"), count) for i in range(nodes)]
        self.heard = [len(news) for news in self.group.news]

    def want(self, i: int) -> None:
        assert self.slots[i].want(self.group.now) is None
        self.run(0)

    def run(self, ms: int) -> None:
        for _ in range(ms + 1):
            self.group.run(1 if ms else 0)
            for i, slots in enumerate(self.slots):
                for news in self.group.news[i][self.heard[i] :]:
                    slots.heard(news, self.group.now)
                self.heard[i] = len(self.group.news[i])
            self.group.step()

    def holders(self) -> list[int]:
        return [i for i, slots in enumerate(self.slots) if slots.held(self.group.now)]


def test_how_many() -> None:
    assert [slots_of(n) for n in (1, 4, 5, 9, 10, 50)] == [1, 1, 1, 1, 2, 10]


def test_as_many_as_there_are_and_the_next_when_one_is_free() -> None:
    seekers = Seekers(4, 2)
    for i in range(4):
        seekers.want(i)
    seekers.run(D_MS // 2)
    first = seekers.holders()
    assert len(first) == 2
    seekers.slots[first[0]].drop(seekers.group.now)
    seekers.run(2 * D_MS)
    assert len(seekers.holders()) == 2 and first[0] not in seekers.holders()


def test_a_full_house_is_asked_with_pauses() -> None:
    """Found by a mutant that made time stand still: with all slots taken, a seeker went from one to the next for ever."""
    seekers = Seekers(3, 2)
    seekers.want(0)
    seekers.want(1)
    seekers.run(20)
    assert len(seekers.holders()) == 2
    before = len(seekers.group.sent)
    seekers.want(2)
    seekers.run(D_MS)
    asked = [m for i, _, m in seekers.group.sent[before:] if i == 2 and isinstance(m, LeaseRequest)]
    assert 2 <= len(asked) < 60


def test_fewer_slots_than_before() -> None:
    seekers = Seekers(2, 2)
    seekers.want(0)
    seekers.want(1)
    seekers.run(20)
    for slots in seekers.slots:
        slots.resize(1, seekers.group.now)
    assert len(seekers.holders()) <= 1
    seekers.run(2 * D_MS)
    assert len(seekers.holders()) == 1
