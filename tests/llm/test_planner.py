"""Whatever the worker process does, the planner answers in time, with one reason, and leaves no process behind."""

import asyncio
import os
import signal
import struct
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudisense.agent.plan import PlanRequest, Ranking
from cloudisense.llm import planner as planner_module
from cloudisense.llm.messages import Answer, Failure, frame
from cloudisense.llm.planner import WAITING_MAX, ModelPlanner, PlannerFailed

READ = """
import os, sys, time, struct
def read():
    head = sys.stdin.buffer.read(4)
    if not head: sys.exit()
    return sys.stdin.buffer.read(struct.unpack(">I", head)[0])
def write(data):
    sys.stdout.buffer.write(data); sys.stdout.buffer.flush()
"""
GOOD = frame(Answer(Ranking((1, 0, 3, 2), "frees 1 B.", "llm", "m", 1, 2)))


@pytest.fixture
def planner_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModelPlanner]:
    """A planner whose worker is a real process that runs the given lines instead of a model."""

    def make(code: str, **options: float) -> ModelPlanner:
        planner = ModelPlanner(Path("/nowhere/model.gguf"), **options)  # pyright: ignore[reportArgumentType]
        monkeypatch.setattr(planner, "_command", lambda: [sys.executable, "-c", READ + textwrap.dedent(code)])
        return planner

    return make


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def failure(planner: ModelPlanner, request: PlanRequest) -> str:
    with pytest.raises(PlannerFailed) as caught:
        await planner.rank(request)
    return caught.value.reason


async def test_one_worker_answers_until_it_was_idle(planner_with, request_for) -> None:
    planner = planner_with(f"while True: read(); write({GOOD!r})", idle_s=0.3)
    assert (await planner.rank(request_for())).order == (1, 0, 3, 2)
    pid = planner.pid
    assert (await planner.rank(request_for())).order == (1, 0, 3, 2)
    assert (planner.pid, planner.loads) == (pid, 1)
    for _ in range(100):
        await asyncio.sleep(0.05)
        if gone(pid):
            break
    assert not planner.loaded and gone(pid)
    await planner.rank(request_for())
    assert planner.loads == 2
    await planner.close()
    assert not planner.loaded


async def test_idle_zero_unloads_after_the_answer(planner_with, request_for) -> None:
    planner = planner_with(f"read(); write({GOOD!r}); time.sleep(60)", idle_s=0)
    await planner.rank(request_for())
    assert not planner.loaded and planner.pid is None
    await planner.close()


async def test_a_death_in_the_middle_costs_one_plan(planner_with, request_for, tmp_path: Path) -> None:
    flag = tmp_path / "died"
    code = f"""
    while True:
        read()
        if not os.path.exists({str(flag)!r}):
            open({str(flag)!r}, "w").close()
            write({GOOD[:9]!r}); print("first", "GGML_ASSERT failed\\x1b[0m", sep="\\n", file=sys.stderr, flush=True)
            os.kill(os.getpid(), 6)
        write({GOOD!r})
    """
    planner = planner_with(code)
    assert await failure(planner, request_for()) == "the model's worker died (signal SIGABRT): GGML_ASSERT failed[0m"
    assert (await planner.rank(request_for())).order == (1, 0, 3, 2)
    assert planner.loads == 2
    await planner.close()


async def test_a_worker_that_died_between_requests_is_replaced(planner_with, request_for) -> None:
    planner = planner_with(f"while True: read(); write({GOOD!r})")
    await planner.rank(request_for())
    os.kill(planner.pid, signal.SIGKILL)
    while planner.loaded:
        await asyncio.sleep(0.01)
    await planner.rank(request_for())
    assert planner.loads == 2
    await planner.close()


async def test_time_out_kills_and_the_next_request_gets_a_new_worker(planner_with, request_for, tmp_path: Path) -> None:
    flag = tmp_path / "slept"
    code = f"""
    read()
    if not os.path.exists({str(flag)!r}):
        open({str(flag)!r}, "w").close()
        time.sleep(60)
    write({GOOD!r}); read()
    """
    planner = planner_with(code, timeout_s=1.0)
    started = time.monotonic()
    running = asyncio.create_task(failure(planner, request_for()))
    while planner.pid is None:
        await asyncio.sleep(0.01)
    pid = planner.pid
    assert await running == "the model gave no answer within 1 s"
    assert time.monotonic() - started < 5
    assert (await planner.rank(request_for())).order == (1, 0, 3, 2)
    assert planner.loads == 2
    await planner.close()
    assert gone(pid)


@pytest.mark.parametrize(
    "reply",
    [
        struct.pack(">I", 2**31) + b"x",
        struct.pack(">I", 0),
        struct.pack(">I", 5) + b"\xc1\xc1\xc1\xc1\xc1",
        b"llama_model_loader: loaded meta data with 33 key-value pairs\n" * 10,
        frame(Answer(Ranking((0, 1, 2, 2), "r", "llm"))),
        frame(Answer(Ranking((0, 1, 2, 3), "r" * 5000, "llm"))),
    ],
)
async def test_nonsense_ends_the_worker(planner_with, request_for, reply: bytes) -> None:
    planner = planner_with(f"read(); write({reply!r}); time.sleep(60)")
    assert (await failure(planner, request_for())).startswith("the model's worker answered nonsense: malformed")
    assert not planner.loaded
    await planner.close()


async def test_a_failure_is_handed_on(planner_with, request_for) -> None:
    planner = planner_with(f"read(); write({frame(Failure('no model today'))!r}); time.sleep(60)")
    assert await failure(planner, request_for()) == "no model today"
    await planner.close()


async def test_a_flood_on_stderr_neither_blocks_nor_grows(planner_with, request_for) -> None:
    planner = planner_with(f"while True: read(); os.write(2, b'x' * 2_000_000); write({GOOD!r})")
    await planner.rank(request_for())
    await planner.rank(request_for())
    assert len(planner._worker._stderr) <= planner_module.STDERR_BYTES_MAX
    await planner.close()


async def test_cancelling_leaves_no_half_answered_worker(planner_with, request_for) -> None:
    planner = planner_with("read(); time.sleep(60)")
    running = asyncio.create_task(planner.rank(request_for()))
    while planner.pid is None:
        await asyncio.sleep(0.01)
    pid = planner.pid
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not planner.loaded
    await planner.close()
    assert gone(pid)


async def test_only_so_many_may_wait(planner_with, request_for) -> None:
    planner = planner_with("read(); time.sleep(60)", timeout_s=1.0)
    results = await asyncio.gather(*(planner.rank(request_for()) for _ in range(WAITING_MAX + 3)), return_exceptions=True)
    reasons = [result.reason for result in results if isinstance(result, PlannerFailed)]
    assert len(reasons) == WAITING_MAX + 3
    assert sum(reason.startswith("the model is busy") for reason in reasons) == 2
    await planner.close()


async def test_requests_out_of_bounds_start_nothing(planner_with, request_for, candidate) -> None:
    planner = planner_with("read()")
    for candidates in ((), (candidate(),) * 33):
        assert "candidates: the model ranks 1 to 32" in await failure(planner, request_for(candidates=candidates))
    assert "too long" in await failure(planner, request_for(symptom="x" * 300_000))
    assert planner.loads == 0
    await planner.close()
    assert await failure(planner, request_for()) == "the model planner is closed"


async def test_the_worker_does_not_see_the_agents_secrets(planner_with, request_for, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "x")
    seen = frame(Failure("seen"))
    planner = planner_with(f"read(); write({seen!r} if 'SECRET_TOKEN' in os.environ else {GOOD!r})")
    await planner.rank(request_for())
    await planner.close()


async def test_a_worker_that_cannot_start(request_for, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    planner = ModelPlanner(tmp_path / "none.gguf")
    monkeypatch.setattr(planner, "_command", lambda: [str(tmp_path / "no-python")])
    assert (await failure(planner, request_for())).startswith("the model's worker did not start: ")
    await planner.close()
