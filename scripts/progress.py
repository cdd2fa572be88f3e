"""Runs pip, turns its long output into one line with the time ticking, and its failures into one line of plain words."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

TICK_S = 0.2
QUIET_TICK_S = 15.0  # without a terminal: one line now and then

# A line of `pip --verbose` and what it means to a person; the first that matches wins.
PHASES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"^\s*\[(\d+/\d+)\] ", "building llama.cpp {0}"),
        (r"^\s*Downloading (\S+?)(?:-\d\S*)? \(([\d.]+ [kMG]B)\)", "fetching {0} ({1})"),
        (r"^\s*(?:Collecting|Processing) ([A-Za-z0-9._-]+)", "looking for {0}"),
        (r"^\s*WARNING: Retrying \(Retry", "no answer from the package index; trying again"),
        (r"^\s*Installing build dependencies", "fetching build tools"),
        (r"^\s*\*\*\* Configuring CMake", "configuring the build"),
        (r"^\s*\*\*\* Making wheel", "packing what was built"),
        (r"^\s*Installing collected packages", "installing"),
    )
)

# What pip's log says and what a person needs to know; the first that matches wins. A full disk often looks like something else later on.
CAUSES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"no space left on device|errno 28|disk quota exceeded", "missing: room on disk; make some, and run this again"),
        (r"out of memory|cc1plus.*killed|killed signal terminated|memoryerror", "missing: memory to build llama.cpp (about 2 GB)"),
        (
            r"name resolution|name or service not known|network is unreachable|no route to host|connection refused|connection reset"
            r"|newconnectionerror|timeouterror|timed out|proxyerror|failed to establish",
            "missing: network; the Python package index did not answer",
        ),
        (r"certificate_verify_failed|sslerror", "missing: a trusted certificate for the Python package index (see PIP_CERT)"),
        (r"no cmake_c(?:xx)?_compiler|compiler identification is unknown", "missing: a C++ compiler: apt-get install g++"),
        (r"no matching distribution found for ([^\s(]+)", "missing: the Python package index here has no {0}"),
    )
)


class Failed(Exception):
    """One line for the person at the terminal."""


def phase_of(line: str) -> str | None:
    """What a line of pip's says is going on, or None."""
    for pattern, words in PHASES:
        if found := pattern.match(line):
            return words.format(*found.groups())
    return None


def cause_of(log: str) -> str | None:
    """Why pip failed, in one line, or None when no known cause is in its log."""
    for pattern, words in CAUSES:
        if found := pattern.search(log):
            return words.format(*found.groups())
    return None


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Log:
    """The whole output, for whoever looks into a failure. A full disk ends the log, not the reader: pip would block on a full pipe."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("ab", buffering=0)

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self.file.write(line.encode())


class Ticker:
    """One line on a terminal, rewritten; without a terminal a line now and then, so that a log stays readable."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.live = sys.stdout.isatty()
        self.started = time.monotonic()
        self.shown_at = -QUIET_TICK_S
        self.shown = ""

    def show(self, phase: str) -> None:
        elapsed = time.monotonic() - self.started
        line = f"prepare: {self.name:<12}  {clock(elapsed)}  {phase}"
        if self.live:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{line[:width]}", end="", flush=True)
        elif elapsed - self.shown_at >= QUIET_TICK_S:
            self.shown_at = elapsed
            print(line, flush=True)

    def done(self) -> None:
        line = f"prepare: {self.name:<12}  {clock(time.monotonic() - self.started)}  ready"
        print(f"\r\x1b[K{line}" if self.live else line, flush=True)

    def broken(self) -> None:
        if self.live:
            print(flush=True)


def run_with_progress(name: str, command: list[str], environment: dict[str, str], log: Path) -> None:
    """Runs `command` to its end. Raises Failed with one line (cause, and where the whole log lies) when it fails."""
    phase = "starting"
    tail: deque[str] = deque(maxlen=400)

    def follow(child: "subprocess.Popen[str]") -> None:
        nonlocal phase
        assert child.stdout is not None
        with Log(log) as out:
            out.write(f"$ {' '.join(command)}\n")
            for line in child.stdout:
                out.write(line)
                tail.append(line)
                phase = phase_of(line) or phase

    # Its own process group: a Ctrl-C ends the compiler too, and nothing can ask a question on the terminal.
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    reader = threading.Thread(target=follow, args=(child,))
    reader.start()
    ticker = Ticker(name)
    with child:
        try:
            while reader.is_alive():
                ticker.show(phase)
                reader.join(TICK_S)
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait()
            reader.join()
            raise
    if code:
        ticker.broken()
        errors = [line.strip() for line in tail if line.lstrip().lower().startswith("error:")]
        reason = cause_of("".join(tail)) or (errors[-1] if errors else f"pip ended with {code}")
        raise Failed(f"{reason} ({name}; log: {log})")
    ticker.done()
