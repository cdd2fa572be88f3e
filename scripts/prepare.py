"""Makes .venv ready for `make demo` or `make test`, shows what is happening, and says in one line what is missing.

    scripts/with-python scripts/prepare.py demo|test

Stages run in order. Each leaves a stamp (a digest of what it was made from), so that a second run does nothing and needs no network.
Only the standard library is used here: this runs before anything is installed.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from progress import Failed, run_with_progress

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMPS = VENV / "stamps.json"
LOG = VENV / "prepare.log"
MODEL = "smollm2"

# What llama.cpp would build and we never call: multimodal, command-line tools, server, tests, and its own downloads.
LLAMA_OFF = (
    "LLAVA_BUILD",
    "LLAMA_BUILD_TOOLS",
    "LLAMA_BUILD_EXAMPLES",
    "LLAMA_BUILD_TESTS",
    "LLAMA_BUILD_SERVER",
    "LLAMA_CURL",
    "LLAMA_OPENSSL",
)


@dataclass(frozen=True)
class Stage:
    """One `pip install`: what it asks for, what proves that it is there, and the room that it takes (MB)."""

    name: str
    arguments: tuple[str, ...]
    made_from: object  # digested into the stamp
    proof: str  # a glob below .venv
    venv_mb: int
    build_mb: int = 0  # in the temporary folder, while it runs
    compiles: bool = False


def stages(goal: str) -> list[Stage]:
    """The stages that `goal` ("demo" or "test") needs, from pyproject.toml."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = table["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    base = {key: value for key, value in project.items() if key != "optional-dependencies"}
    wanted = [
        Stage("libraries", ("--editable", str(ROOT)), [base, table["build-system"], table["tool"]["hatch"]], "bin/cloudisense", 130),
        Stage("model engine", tuple(extras["llm"]), extras["llm"], "lib/python3*/site-packages/llama_cpp", 130, 900, compiles=True),
    ]
    if goal == "test":
        wanted.append(Stage("test tools", tuple(extras["test"]), extras["test"], "bin/pytest", 360))
    return wanted


def digest(made_from: object) -> str:
    """A stage is made again when its requirements, the interpreter or the place of the folder change."""
    basis = [made_from, platform.python_version(), platform.machine(), str(VENV)]
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def read_stamps() -> dict[str, str]:
    try:
        return dict(json.loads(STAMPS.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_stamp(name: str, value: str) -> None:
    stamps = read_stamps() | {name: value}
    fresh = STAMPS.with_suffix(".new")
    fresh.write_text(json.dumps(stamps, indent=1), encoding="utf-8")
    fresh.replace(STAMPS)


def is_done(stage: Stage, stamps: dict[str, str]) -> bool:
    return stamps.get(stage.name) == digest(stage.made_from) and any(VENV.glob(stage.proof))


def clean_environment() -> dict[str, str]:
    """Ours without what would lead pip or Python out of .venv, and with llama.cpp's unused parts off."""
    led_astray = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_REQUIRE_VIRTUALENV")
    environment = {key: value for key, value in os.environ.items() if key not in led_astray}
    off = " ".join(f"-D{name}=OFF" for name in LLAMA_OFF)
    environment["CMAKE_ARGS"] = f"{off} {environment.get('CMAKE_ARGS', '')}".strip()  # a person's own come last, and win
    return environment


def missing_compiler() -> str | None:
    """What it would take to build C++ here, or None. Compiles a line: a compiler without its headers is of no use."""
    for variable, fallback, suffix, package in (("CC", "cc", ".c", "gcc"), ("CXX", "c++", ".cc", "g++")):
        command = os.environ.get(variable, fallback).split()
        header = "stdlib.h" if suffix == ".c" else "vector"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, f"probe{suffix}")
            source.write_text(f"#include <{header}>\nint main() {{ return 0; }}\n", encoding="utf-8")
            try:
                done = subprocess.run([*command, str(source), "-o", str(source.with_suffix(""))], capture_output=True, check=False)
            except OSError:
                return f"a working {command[0]} (llama.cpp is built here, once): apt-get install {package}"
            if done.returncode:
                return f"a {command[0]} that compiles (headers may be absent): apt-get install {package} libc6-dev"
    return None


def missing_room(todo: list[Stage]) -> str | None:
    """Compares what the stages will write with what is free, per file system. MB are 10^6 bytes."""
    temporary = Path(tempfile.gettempdir())
    build = max((stage.build_mb for stage in todo), default=0)
    wanted: dict[int, tuple[Path, int]] = {}
    for place, need in ((ROOT, sum(stage.venv_mb for stage in todo)), (temporary, build)):
        device = place.stat().st_dev
        first, so_far = wanted.get(device, (place, 0))
        wanted[device] = (first, so_far + need)
    for place, need in wanted.values():
        free = shutil.disk_usage(place).free // 10**6
        if free < need:
            return f"room on disk: {need} MB needed below {place}, {free} MB free"
    return None


def missing(todo: list[Stage]) -> str | None:
    """The first thing that the stages need and this machine lacks, in words, or None."""
    if not VENV.is_dir() or "venv" not in read_stamps():
        try:
            import ensurepip  # noqa: F401  Debian ships venv without it
            import venv  # noqa: F401
        except ImportError:
            return f"python3-venv: apt-get install python3.{sys.version_info.minor}-venv"
    if short := missing_room(todo):
        return short
    return missing_compiler() if any(stage.compiles for stage in todo) else None


def make_venv() -> None:
    """A new .venv, unless the one that stands is whole and was made here by this interpreter."""
    mark = digest(sys.base_prefix)
    if read_stamps().get("venv") == mark and (VENV / "bin/python").exists():
        return
    print(f"prepare: .venv with Python {platform.python_version()}", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stdout + done.stderr).strip().splitlines()
        raise Failed(f"could not make {VENV}: {words[-1] if words else 'python -m venv failed'}")
    write_stamp("venv", mark)


def install(stage: Stage) -> None:
    pip = [str(VENV / "bin/python"), "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    run_with_progress(stage.name, [*pip, "--retries", "2", "--verbose", *stage.arguments], clean_environment(), LOG)
    write_stamp(stage.name, digest(stage.made_from))


@contextlib.contextmanager
def only_one() -> Iterator[None]:
    """Two `make` in one folder take turns. The kernel lets go of the lock when its holder dies."""
    with (ROOT / ".prepare.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("prepare: another make prepares this folder; waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def prepare(goal: str) -> int:
    with only_one():
        if (VENV / "bin/python").exists() and read_stamps().get("venv") != digest(sys.base_prefix):
            STAMPS.unlink(missing_ok=True)  # moved, or another interpreter: everything below is stale
        stamps = read_stamps()
        todo = [stage for stage in stages(goal) if not is_done(stage, stamps)]
        if todo and (words := missing(todo)):
            raise Failed(f"missing: {words}")
        make_venv()
        if any(stage.compiles for stage in todo):
            print(f"prepare: llama.cpp is built once: about 4 minutes on 2 cores (here: {os.cpu_count()}); log: {LOG}", flush=True)
        for stage in todo:
            install(stage)
        return subprocess.run([str(VENV / "bin/cloudisense"), "llm", "add", MODEL], check=False).returncode


def main() -> int:
    if len(sys.argv) != 2 or sys.argv[1] not in ("demo", "test"):
        print("usage: prepare.py demo|test", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by an exception, so that pip and the compiler end too
    try:
        return prepare(sys.argv[1])
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"prepare: {error.strerror}: {error.filename}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprepare: stopped; the next run goes on from here", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
