"""What `make` says on a machine where something is missing, and how it reads pip's output."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.progress import Failed, cause_of, clock, phase_of, run_with_progress

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what preparing needs, never prepared."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def prepare(checkout: Path, goal: str = "demo", **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [checkout / "scripts/with-python", checkout / "scripts/prepare.py", goal]
    here = {"PYTHON": sys.executable, "PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, env=here, capture_output=True, text=True, check=False, timeout=30)


def only_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The one line that a failed run says."""
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_no_compiler(checkout: Path) -> None:
    assert "g++" in only_line(prepare(checkout, CC="true", CXX="no-such-compiler"))
    assert not (checkout / ".venv").exists(), "found before anything was made"


def test_a_compiler_that_does_not_compile(checkout: Path) -> None:
    line = only_line(prepare(checkout, CC="false"))
    assert line.startswith("missing: a false that compiles")


def test_python_too_old(checkout: Path) -> None:
    old = checkout / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit\nexit 1\n', encoding="utf-8")
    old.chmod(0o755)
    line = only_line(prepare(checkout, PYTHON=str(old)))
    assert line.startswith("missing: Python 3.11 or newer (found: Python 3.9.2)")


def test_no_venv_module(checkout: Path) -> None:
    """As on Debian, where it is a package of its own."""
    (checkout / "absent").mkdir()
    (checkout / "absent/ensurepip.py").write_text("raise ImportError\n", encoding="utf-8")
    assert "python3-venv" in only_line(prepare(checkout, PYTHONPATH=str(checkout / "absent")))


def test_no_room(checkout: Path) -> None:
    """More is asked for than any disk has."""
    script = checkout / "scripts/prepare.py"
    text = script.read_text(encoding="utf-8")
    changed = text.replace('"bin/cloudisense", 130)', '"bin/cloudisense", 10**9)')
    assert changed != text
    script.write_text(changed, encoding="utf-8")
    line = only_line(prepare(checkout))
    assert line.startswith("missing: room on disk: ")
    assert line.endswith(" MB free")


def test_wrong_goal(checkout: Path) -> None:
    assert prepare(checkout, "everything").returncode == 2


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  [37/140] /usr/bin/g++ -DGGML_BUILD -c x.cpp", "building llama.cpp 37/140"),
        ("  Downloading llama_cpp_python-0.3.36.tar.gz (76.6 MB)", "fetching llama_cpp_python (76.6 MB)"),
        ("Collecting aiohttp>=3.14 (from cloudisense)", "looking for aiohttp"),
        ("  *** Configuring CMake...", "configuring the build"),
        ("Installing collected packages: msgpack", "installing"),
        ("-- The CXX compiler identification is GNU 12.2.0", None),
    ],
)
def test_phases(line: str, words: str | None) -> None:
    assert phase_of(line) == words


@pytest.mark.parametrize(
    ("log", "start"),
    [
        ("Failed to establish a new connection: [Errno -3] Temporary failure in name resolution", "missing: network"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "missing: room on disk"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "missing: memory"),
        ("ERROR: No matching distribution found for msgpack>=1.2", "missing: the Python package index here has no msgpack>=1.2"),
    ],
)
def test_causes(log: str, start: str) -> None:
    assert (cause_of(log) or "").startswith(start)


def test_an_unknown_cause_shows_the_last_error(tmp_path: Path) -> None:
    code = "print('error: the cat is on the keyboard'); raise SystemExit(3)"
    with pytest.raises(Failed, match=r"^error: the cat is on the keyboard \(cats; log: .*log\)$"):
        run_with_progress("cats", [sys.executable, "-c", code], dict(os.environ), tmp_path / "log")
    assert "the cat" in (tmp_path / "log").read_text(encoding="utf-8")


def test_progress_ends_with_ready(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_with_progress("cats", [sys.executable, "-c", "print('Collecting cats')"], dict(os.environ), tmp_path / "log")
    assert capsys.readouterr().out.splitlines()[-1].split() == ["prepare:", "cats", "0:00", "ready"]


def test_clock() -> None:
    assert [clock(0.9), clock(61), clock(3600)] == ["0:00", "1:01", "60:00"]
