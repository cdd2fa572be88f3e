"""Real commands and real agents on the loopback, each a process with a state folder of its own."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudisense.cli import main
from cloudisense.clock import read_clock
from cloudisense.home import Home

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "80"}
COMMAND = [sys.executable, "-m", "cloudisense"]
WAIT_S = 30.0
EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What a command with ``--json`` printed: one value on one line, and nothing else."""
        assert self.code == 0, self
        assert self.err == "" and self.out.count("\n") == 1 and self.out.endswith("\n"), self
        return json.loads(self.out)

    def refused(self, *words: str) -> str:
        """The one line on stderr of a command that did nothing; each of ``words`` stands in it."""
        assert self.code not in (0, -signal.SIGKILL) and self.out == "", self
        assert self.err.count("\n") == 1 and self.err.startswith("cloudisense: "), self
        assert len(self.err) < 400 and "Traceback" not in self.err, self
        for word in words:
            assert word in self.err, (word, self.err)
        return self.err


class Agent:
    """A running ``cloudisense up --json``."""

    def __init__(self, state: Path, *options: str) -> None:
        self.state = state
        self._log = state.with_name(state.name + f".{time.time_ns()}.log")
        with self._log.open("wb") as log, self._log.with_suffix(".err").open("wb") as errors:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--json", "--state", str(state), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=errors, env=ENVIRONMENT, start_new_session=True,
            )  # fmt: skip

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has said so far."""
        return [json.loads(line) for line in self._log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    @property
    def errors(self) -> str:
        """What it wrote to stderr."""
        return self._log.with_suffix(".err").read_text()

    def expect(self, topic: str, **facts: str) -> dict[str, Any]:
        """Wait for the first event of ``topic`` with these facts."""

        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None or self.events, self.errors
            return next((e for e in self.events if e["topic"] == topic and facts.items() <= e.items()), None)

        return until(found)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; its exit status, and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        try:
            return self.process.wait(WAIT_S), time.monotonic() - began
        finally:
            self.process.kill()
            self.process.wait()


def until(condition: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Wait until ``condition()`` is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


@pytest.fixture(name="until")
def until_() -> Callable[..., Any]:
    return until


@pytest.fixture
def cli() -> Callable[..., Done]:
    """Run one command to its end."""

    def run(*words: object, environment: dict[str, str] | None = None, prefix: tuple[str, ...] = (), timeout: float = 30.0) -> Done:
        done = subprocess.run(
            [*prefix, *COMMAND, *map(str, words)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, env=ENVIRONMENT | (environment or {}), check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """As ``cli``, in this very process: for commands that end at once. What the end of a process does to its lock is done here."""
    locked: list[Home] = []
    lock = Home.lock
    monkeypatch.setattr(Home, "lock", lambda home: (locked.append(home), lock(home))[1])

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["cloudisense", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        while locked:
            locked.pop().unlock()
        assert isinstance(ended.value.code, int)
        printed = capfd.readouterr()
        return Done(ended.value.code, printed.out, printed.err)

    return run


@pytest.fixture
def port() -> Callable[[], int]:
    """A port that is free for TCP and UDP, below those that the kernel gives out by itself."""

    def free() -> int:
        while True:
            number = random.SystemRandom().randrange(20_000, 30_000)
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                try:
                    tcp.bind(("127.0.0.1", number))
                    udp.bind(("127.0.0.1", number))
                except OSError:
                    continue
            return number

    return free


@pytest.fixture
def start() -> Iterator[Callable[..., Agent]]:
    """Start an agent; all are ended with the test."""
    started: list[Agent] = []

    def begin(state: Path, *options: str, up: bool = True) -> Agent:
        agent = Agent(state, *options)
        started.append(agent)
        if up:
            agent.expect("up")
        return agent

    yield begin
    for agent in started:
        agent.process.kill()
        agent.process.wait()


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, str]]:
    """Every file of a folder with its SHA-256; without the lock and SQLite's shared memory, which readers may touch."""

    def take(folder: Path) -> dict[str, str]:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("agent.lock", "state.db-shm"))
        found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        return {name: digest for name, digest in found.items() if digest != EMPTY or name != "state.db-wal"}

    return take


@pytest.fixture
def founded(port: Callable[[], int], tmp_path: Path) -> Path:
    """The state folder of a mesh's first node, ``a``, which is not up."""
    home = Home(tmp_path / "a")
    home.lock()
    home.found("a", f'[mesh]\nbind = "127.0.0.1:{port()}"\n', read_clock())
    home.unlock()
    return home.path
