"""The demo as a person runs it: real agents, a real file system, a real model; as root and as anybody."""

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudisense.demo.stage import namespace_command

Cli = Callable[..., Any]

LIBRARIES = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "PYTHONPATH": f"{Path(__file__).resolve().parents[3]}:{sysconfig.get_path('purelib')}",
    "PYTHONDONTWRITEBYTECODE": "1",
}

WHO_AND_WHY = ("subject", "fault", "used_before", "used_after", "planned_by", "acted_by", "authorised_by", "planner", "plan", "reasoning")
TIMES = ("opened_ms", "offered_ms", "granted_ms", "acted_ms", "verified_ms", "known_to_all_ms")


@pytest.fixture(scope="module", autouse=True)
def allowed() -> None:
    """Skip where this host gives nobody a file system of his own."""
    try:
        namespace_command()
    except ValueError as error:
        pytest.skip(str(error))


def check(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What holds for every run of the demo; its runs."""
    assert result["healed"] is True and result["canaries_intact"] is True
    for run in result["runs"]:
        assert {*WHO_AND_WHY, *TIMES} <= run.keys()
        assert (run["subject"], run["fault"], run["authorised_by"]) == ("a", "disk_full", "a")
        assert run["used_before"] >= 90 and run["used_after"] < 80 and run["plan"] and run["reasoning"]
        times = [run[key] for key in TIMES]
        assert times == sorted(times) and times[0] > 0 and times[-1] < 60_000
    return result["runs"]


@pytest.mark.timeout(120)
def test_a_neighbours_model_plans_and_memory_answers_the_second_time(cli: Cli) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    model = os.environ.get("CLOUDISENSE_TEST_MODEL")
    if model is None or not Path(model).is_file():
        pytest.skip("no model: cloudisense llm add smollm2, or CLOUDISENSE_TEST_MODEL=/path/to/smollm2.gguf")
    state = Path(model).parent.parent
    if not (Path(model).parent / "models.json").is_file():
        pytest.skip("the model lies in no state folder")
    first, second = check(cli("demo", "--json", "--state", state, timeout=110).json)
    assert (first["planner"], first["planned_by"], first["model_loads"]) == ("llm", "b", 1)
    assert first["acted_by"] == "b", "it acts for the subject, through the subject's gate"
    assert (second["planner"], second["model_loads"]) == ("memory", 0)
    assert second["plan"] == first["plan"] and second["verified_ms"] * 3 <= first["verified_ms"]


def ordinary() -> tuple[list[str], str] | None:
    """How root runs Python as an ordinary user; ``None`` where that user cannot read this tree or any fitting Python."""
    # Through a shell: setpriv itself still has root's eyes when it starts a program.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", 'exec "$0" "$@"']
    # The Python of these tests may lie in a home that only root may enter; another of its version does as well.
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        look = [*user, python, "-c", "import cloudisense.cli, cryptography"]
        if subprocess.run(look, env=LIBRARIES, capture_output=True, check=False).returncode == 0:
            return user, python
    return None


def test_rules_alone_as_an_ordinary_user() -> None:
    """In a user namespace; where the kernel allows none, one line says so."""
    prefix, python = (ordinary() or ([], sys.executable)) if os.geteuid() == 0 else ([], sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        command = [*prefix, python, "-m", "cloudisense", "demo", "--planner", "rules", "--json"]
        done = subprocess.run(command, env={**LIBRARIES, "TMPDIR": folder}, capture_output=True, text=True, check=False)
        assert list(Path(folder).iterdir()) == [], "it leaves nothing behind"
    if done.returncode and prefix:
        assert done.stderr.count("\n") == 1 and "file system of its own" in done.stderr and "run it as root" in done.stderr
        return
    assert (done.returncode, done.stderr) == (0, "")
    for run in check(json.loads(done.stdout)):
        assert (run["planner"], run["plan"]) == ("rules", "clean_cache role=cache")


def test_where_no_namespace_is_to_be_had(command: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    done = command("demo", "--planner", "rules", "--json")
    done.refused("unshare", "run it as root")
    assert list(tmp_path.iterdir()) == []
