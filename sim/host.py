"""A simulated host: one file system with files that the catalogue's actions can really remove or shrink."""

import random
from dataclasses import dataclass

from cloudisense.agent.catalogue import Catalogue, DeclaredPath
from cloudisense.agent.events import FileSystem
from cloudisense.agent.plan import Measured, Step

MB = 1_000_000
AGES_S = {"1h": 3600, "6h": 6 * 3600, "1d": 86_400, "7d": 7 * 86_400}


@dataclass(slots=True)
class File:
    """``age_s`` is how old it is now; ``canary`` means that no fix may touch it."""

    folder: str
    size: int
    age_s: int
    canary: bool = False


class Host:
    """``size`` bytes of file system at ``mount``."""

    def __init__(self, mount: str, size: int, paths: tuple[DeclaredPath, ...]) -> None:
        self.mount = mount
        self.size = size
        self.paths = {path.path: path for path in paths}
        self.files: list[File] = []
        self.ran: list[Step] = []
        self.useless: set[str] = set()
        """Actions whose files a process still holds open: gone by name, and nothing is free."""
        self.unreadable = ""
        """Why the file system cannot be read, when it cannot."""

    def read(self) -> FileSystem:
        """What a probe reads."""
        return FileSystem(self.size, sum(f.size for f in self.files), 100_000, len(self.files))

    def canaries(self) -> int:
        """How many are left."""
        return sum(f.canary for f in self.files)

    def fill(self, folder: str, share: float, rng: random.Random) -> None:
        """An application writes old scratch files until ``share`` of the file system is used."""
        while self.read().used < share * self.size:
            self.files.append(File(folder, rng.randrange(MB // 4, MB), rng.randrange(2 * 86_400, 20 * 86_400)))

    def measure(self, step: Step) -> Measured:
        """What ``step`` would free."""
        gone = self._touched(step)
        freed = sum(self._gain(step, f) for f in gone)
        return Measured(freed, 0 if step.action == "compress_logs" else len(gone), len(gone), f"{len(gone)} files" if gone else "")

    def run(self, step: Step, catalogue: Catalogue) -> tuple[str, str, int]:
        """Carry ``step`` out: verdict, detail, bytes freed."""
        if not catalogue.check(step):
            return "refused", "not in the catalogue", 0
        self.ran.append(step)
        freed = self.measure(step).frees_bytes
        gone = self._touched(step)
        if step.action in self.useless:
            return "done", f"{len(gone)} files", freed
        if step.action == "compress_logs":
            for file in gone:
                file.size -= self._gain(step, file)
        else:
            self.files = [f for f in self.files if not any(f is g for g in gone)]
        return "done", f"{len(gone)} files", freed

    def _touched(self, step: Step) -> list[File]:
        path, age_s = step.value("path"), AGES_S.get(step.value("age"), 0)
        return [f for f in self.files if f.folder == path and f.age_s >= age_s]

    @staticmethod
    def _gain(step: Step, file: File) -> int:
        return file.size * 7 // 10 if step.action == "compress_logs" else file.size
