"""When to look: every file system with a declared path, more often near a threshold or while an incident is open."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cloudisense.agent.detect import RULES, Detector, Rule
from cloudisense.agent.events import FileSystem, Sampled
from cloudisense.agent.requests import Requests
from cloudisense.agent.settings import Settings
from cloudisense.mesh.instant import Instant


@dataclass(slots=True)
class Watch:
    """One mount point under watch."""

    target: str
    detectors: list[Detector] = field(default_factory=list[Detector])
    errors: int = 0


class Monitor:
    """Samples and detects; ``raised`` and ``cleared`` are told of changes, ``busy`` says whether a target has an open incident.

    What ``raised`` does not take is tried again with the next reading.
    """

    def __init__(
        self,
        targets: tuple[str, ...],
        requests: Requests,
        settings: Settings,
        raised: Callable[[Rule, str, FileSystem, Instant], bool],
        cleared: Callable[[Rule, str, FileSystem, Instant], None],
        busy: Callable[[str], bool],
    ) -> None:
        self._watches = {target: Watch(target, [Detector(rule, target) for rule in RULES]) for target in targets}
        self._requests = requests
        self._settings = settings
        self._raised = raised
        self._cleared = cleared
        self._busy = busy

    def start(self, now: Instant) -> None:
        """Begin to watch."""
        for target in sorted(self._watches):
            self._requests.after(("sample", target), now, 0)

    def rearm(self, kind: str, target: str) -> None:
        """An incident ended well: the next time that the level is high is a new one, even if no reading saw it low between."""
        for detector in self._watches[target].detectors if target in self._watches else ():
            if detector.rule.kind == kind:
                detector.raised, detector.above_ns = False, None

    def sample(self, target: str, now: Instant) -> None:
        """Time to read one file system."""
        watch = self._watches[target]
        self._requests.sample(target, lambda sample, later: self._sampled(watch, sample, later))

    def _sampled(self, watch: Watch, sample: Sampled, now: Instant) -> None:
        reading = sample.reading
        near = reading is not None and (self._busy(watch.target) or any(d.near(reading) for d in watch.detectors))
        self._requests.after(("sample", watch.target), now, self._settings.near_sample_ms if near else self._settings.sample_ms)
        if reading is None:
            watch.errors += 1
            if watch.errors == 1:
                self._requests.notify("probe failed", "", f"{watch.target}: {sample.error}")
            return
        watch.errors = 0
        for detector in watch.detectors:
            change = detector.update(reading, now)
            if change == "raised":
                detector.raised = self._raised(detector.rule, watch.target, reading, now)
            elif change == "cleared":
                self._cleared(detector.rule, watch.target, reading, now)
