"""When to look."""

from cloudisense.agent.effects import Notify, Sample
from cloudisense.agent.events import FileSystem, Sampled
from cloudisense.agent.monitor import Monitor
from cloudisense.agent.requests import Requests
from cloudisense.agent.settings import Settings
from cloudisense.mesh.instant import NS_PER_MS, Instant


class Watchman:
    """A monitor with its host played by hand."""

    def __init__(self, *targets: str) -> None:
        self.requests, self.busy, self.heard, self.told = Requests(), False, [], []
        self.monitor = Monitor(
            targets,
            self.requests,
            Settings(),
            lambda rule, target, reading, now: self.heard.append(("raised", rule.kind, target)) or True,
            lambda rule, target, reading, now: self.heard.append(("cleared", rule.kind, target)),
            lambda target: self.busy,
        )
        self.now_ms = 0
        self.monitor.start(self.now)

    @property
    def now(self) -> Instant:
        return Instant(self.now_ms * NS_PER_MS, 0)

    def look(self, share: float | None, inodes: float = 0.0) -> int:
        """Let the next sample be due, answer it, and say in how many milliseconds the one after it is."""
        deadline = self.requests.timers.next()
        assert deadline is not None
        self.now_ms = deadline // NS_PER_MS
        name = self.requests.timers.pop_due(deadline)
        assert isinstance(name, tuple)
        self.monitor.sample(name[1], self.now)
        [sample] = [e for e in self.requests.poll_effects() if isinstance(e, Sample)]
        reading = None if share is None else FileSystem(1000, int(share * 1000), 1000, int(inodes * 1000))
        self.requests.answered(Sampled(sample.token, reading, "gone" if share is None else ""), self.now)
        self.told += [e.text for e in self.requests.poll_effects() if isinstance(e, Notify)]
        after = self.requests.timers.next()
        assert after is not None
        return after // NS_PER_MS - self.now_ms


def test_rates() -> None:
    w = Watchman("/vol")
    assert w.look(0.5) == 1000
    assert w.look(0.81) == 200, "near the threshold"
    assert w.look(0.5) == 1000
    w.busy = True
    assert w.look(0.5) == 200, "an incident is open"
    assert w.look(None) == 1000, "nobody hurries to read what cannot be read"


def test_raised_and_cleared() -> None:
    w = Watchman("/vol")
    for share in (0.95, 0.95, 0.95, 0.5, 0.5):
        w.look(share)
    assert w.heard == [("raised", "disk_full", "/vol"), ("cleared", "disk_full", "/vol")]
    for _ in range(3):
        w.look(0.1, inodes=0.99)
    assert w.heard[2:] == [("raised", "inodes_full", "/vol")]


def test_rearm() -> None:
    w = Watchman("/vol")
    for _ in range(4):
        w.look(0.95)
    w.monitor.rearm("disk_full", "/vol")
    w.monitor.rearm("disk_full", "/gone")
    for _ in range(3):
        w.look(0.95)
    assert [word for word, _, _ in w.heard] == ["raised", "raised"]


def test_an_unreadable_one_is_told_once_and_again_after_it_was_well() -> None:
    w = Watchman("/vol")
    for share, told in ((None, 1), (None, 1), (0.1, 1), (None, 2)):
        w.look(share)
        assert w.told == ["/vol: gone"] * told


def test_each_target_has_its_own_turn() -> None:
    w = Watchman("/a", "/b")
    assert w.requests.timers.pop_due(0) == ("sample", "/a")
    assert w.requests.timers.pop_due(0) == ("sample", "/b")
