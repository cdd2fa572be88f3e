"""A host for tests: real folders in a temporary place, declared, with files of known age."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.plan import Step
from cloudisense.host.catalogue import builtin_actions, declare
from cloudisense.host.executor import Executor

HOUR = 3600


class Host:
    """Declares folders below ``base``, fills them, and makes the steps that act on them."""

    def __init__(self, base: Path) -> None:
        self.base = Path(os.path.realpath(base))
        self.wall_ns = time.time_ns()
        self.roles: list[tuple[str, str]] = []

    def folder(self, name: str, role: str | None = None) -> Path:
        path = self.base / name
        path.mkdir(parents=True, exist_ok=True)
        if role:
            self.roles.append((str(path), role))
        return path

    def file(self, path: Path | str, content: bytes = b"x" * 5000, age_s: float = 2 * HOUR) -> Path:
        path = self.base / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.age(path, age_s)
        return path

    def age(self, path: Path, age_s: float) -> None:
        then = self.wall_ns - int(age_s * 1e9)
        os.utime(path, ns=(then, then), follow_symlinks=False)

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(builtin_actions(), declare(self.roles))

    @property
    def executor(self) -> Executor:
        return Executor(self.catalogue)

    def step(self, action: str, path: Path, age: str = "") -> Step:
        values = (("age", age), ("path", str(path))) if age else (("path", str(path)),)
        return Step(action, next(a for a in builtin_actions() if a.id == action).digest, values)

    def measure(self, action: str, path: Path, age: str = ""):
        return self.executor.measure(self.step(action, path, age), self.wall_ns)

    def run(self, action: str, path: Path, age: str = ""):
        return self.executor.run(self.step(action, path, age), self.wall_ns)

    def contents(self, path: Path) -> dict[str, str]:
        """What must not change: every name below ``path`` with its kind, inode, time of change and hash."""
        seen: dict[str, str] = {}
        for folder, folders, names in os.walk(path):
            for name in (*folders, *names):
                full = os.path.join(folder, name)
                status = os.lstat(full)
                kind = f"{status.st_mode:o} {status.st_ino} {status.st_nlink}"
                if os.path.isfile(full) and not os.path.islink(full):
                    kind += f" {status.st_mtime_ns} {hashlib.sha256(Path(full).read_bytes()).hexdigest()}"
                seen[os.path.relpath(full, path)] = kind
        return seen


@pytest.fixture(scope="session")
def host_at() -> type[Host]:
    """The class, for tests that need a host per hypothesis example."""
    return Host


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)
