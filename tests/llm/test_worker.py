"""The real worker process: what it says when it cannot plan, and that it ends with its parent's end of the pipe."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudisense.llm.planner import ModelPlanner, PlannerFailed
from cloudisense.llm.worker import MISSING

ROOT = Path(__file__).resolve().parents[2]


async def failure(model: Path, request, **options) -> str:
    planner = ModelPlanner(model, timeout_s=30, **options)
    with pytest.raises(PlannerFailed) as caught:
        await planner.rank(request)
    await planner.close()
    return caught.value.reason


async def test_a_model_that_is_not_there(tmp_path: Path, request_for) -> None:
    assert "No such file" in await failure(tmp_path / "none.gguf", request_for())


async def test_a_file_that_is_no_model_and_a_truncated_one(tmp_path: Path, request_for, tiny_gguf: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"not a model")
    assert await failure(path, request_for()) == f"{path} is not a GGUF file"
    path.write_bytes(tiny_gguf[:-1])
    assert "is damaged: it ends after" in await failure(path, request_for())


async def test_without_llama_cpp_python_the_remedy_is_said(tmp_path: Path, request_for, tiny_gguf: bytes, monkeypatch) -> None:
    (tmp_path / "tiny.gguf").write_bytes(tiny_gguf)
    (tmp_path / "llama_cpp.py").write_text("raise ModuleNotFoundError('none', name='llama_cpp')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert await failure(tmp_path / "tiny.gguf", request_for()) == MISSING


async def test_a_whole_gguf_that_is_no_language_model(tmp_path: Path, request_for, tiny_gguf: bytes) -> None:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    (tmp_path / "tiny.gguf").write_bytes(tiny_gguf)
    assert "tiny.gguf cannot be loaded" in await failure(tmp_path / "tiny.gguf", request_for())


def test_it_ends_when_nobody_can_ask_any_more(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "cloudisense.llm.worker", "--model", str(tmp_path / "x"), "--memory-mb", "512"]
    command += ["--parent", str(os.getpid())]
    done = subprocess.run(command, input=b"", env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (0, b"")


async def test_the_real_model_plans(model_path: Path, request_for) -> None:
    planner = ModelPlanner(model_path, timeout_s=50)
    ranking = await planner.rank(request_for())
    assert sorted(ranking.order) == [0, 1, 2, 3]
    assert (ranking.planner, ranking.model) == ("llm", model_path.stem)
    assert ranking.load_ms > 0 and ranking.think_ms > 0
    await planner.close()


@pytest.mark.slow
async def test_the_real_models_death_costs_one_plan(model_path: Path, request_for) -> None:
    planner = ModelPlanner(model_path, timeout_s=50)
    ranking = await planner.rank(request_for())
    running = asyncio.create_task(planner.rank(request_for()))
    await asyncio.sleep(0.2)
    assert planner.pid is not None
    os.kill(planner.pid, signal.SIGKILL)
    with pytest.raises(PlannerFailed, match=r"the model's worker died \(signal SIGKILL\)"):
        await running
    again = await planner.rank(request_for())
    assert (again.order, again.reasoning) == (ranking.order, ranking.reasoning), "a fresh process gives the same answer"
    assert planner.loads == 2
    await planner.close()


async def test_too_little_memory_is_one_failed_plan(model_path: Path, request_for) -> None:
    reason = await failure(model_path, request_for(), memory_mb=160)
    assert reason and "\n" not in reason
