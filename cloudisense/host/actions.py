"""The handler of every catalogue action: what it would do, and doing it."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from cloudisense.agent.catalogue import DeclaredPath
from cloudisense.agent.plan import Measured, Step
from cloudisense.host.compress import CompressLogs
from cloudisense.host.open_files import open_files
from cloudisense.host.outcome import Outcome, StepFailed
from cloudisense.host.trash import Trash, leftovers
from cloudisense.host.tree import Found, Tree, until
from cloudisense.mesh.instant import NS_PER_S

FILES_MAX = 100_000
"""Files that one run holds in memory: the oldest. The rest waits for the next run."""

AGES: dict[str, tuple[int, str]] = {
    "1h": (3_600, "1 hour"),
    "6h": (21_600, "6 hours"),
    "1d": (86_400, "1 day"),
    "7d": (604_800, "7 days"),
}
"""Choice in the catalogue: seconds, and words."""


class Handler(Protocol):
    """How one action is done. ``paths`` are all declared folders, so that an inner one is left alone.

    ``wall_ns`` is Unix time, against which ages count. Raises ``StepFailed``, or ``OSError`` for what nobody foresaw.
    """

    def measure(self, step: Step, paths: tuple[DeclaredPath, ...], wall_ns: int) -> Measured:
        """What ``run`` would free if nothing changed; nothing is changed. Never more than that."""
        ...

    def run(self, step: Step, paths: tuple[DeclaredPath, ...], wall_ns: int, deadline: float) -> Outcome:
        """Do it, until ``deadline`` on ``time.monotonic()`` at most."""
        ...


@dataclass(frozen=True, slots=True)
class RemoveFiles:
    """Remove regular files, oldest first: all of them, or those older than the step's ``age``."""

    aged: bool

    def measure(self, step: Step, paths: tuple[DeclaredPath, ...], wall_ns: int) -> Measured:
        with Tree(step.value("path"), paths) as tree:
            left_bytes, left_files = leftovers(tree)
            chosen = self._choose(tree.files(), step, tree.device, wall_ns)
        files = len(chosen) + left_files
        return Measured(sum(f.allocated for f in chosen) + left_bytes, files, files, self._words(files, step) if files else "")

    def run(self, step: Step, paths: tuple[DeclaredPath, ...], wall_ns: int, deadline: float) -> Outcome:
        with Tree(step.value("path"), paths) as tree:
            tree.lock()
            with Trash(tree) as trash:
                freed, files = trash.purge()
                try:
                    for found in until(deadline, self._choose(until(deadline, tree.files()), step, tree.device, wall_ns)):
                        if trash.remove(found):
                            freed, files = freed + found.allocated, files + 1
                except StepFailed as failure:
                    raise StepFailed(f"{failure.reason}; removed {self._words(files, step)}", freed, files) from None
                if trash.refusals and not files:
                    raise StepFailed(f"nothing could be removed: {min(trash.refusals)}")
                left = sum(trash.refusals.values())
        return Outcome(freed, files, f"removed {self._words(files, step)}" + (f"; {left} would not go" if left else ""))

    def _choose(self, files: Iterable[Found], step: Step, device: int, wall_ns: int) -> list[Found]:
        if self.aged:
            before_ns = wall_ns - AGES[step.value("age")][0] * NS_PER_S
            files = (found for found in files if found.mtime_ns < before_ns)
        chosen = heapq.nsmallest(FILES_MAX, files, key=attrgetter("mtime_ns"))
        held = open_files(device) if chosen else frozenset[tuple[int, int]]()
        return [found for found in chosen if found.identity not in held]

    def _words(self, files: int, step: Step) -> str:
        count = "1 file" if files == 1 else f"{files} files"
        return f"{count} older than {AGES[step.value('age')][1]}" if self.aged else count


HANDLERS: dict[str, Handler] = {
    "clean_cache": RemoveFiles(aged=False),
    "purge_old_files": RemoveFiles(aged=True),
    "compress_logs": CompressLogs(),
}
