"""Work in a thread that nobody waits for at the end."""

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cloudisense.host.thread import in_thread


async def test_results_and_errors_come_back() -> None:
    assert await in_thread(lambda: threading.current_thread() is not threading.main_thread())
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


async def test_a_dropped_one_says_nothing() -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    release = threading.Event()
    dropped = in_thread(lambda: release.wait(10) and 1 // 0)
    cancelled = in_thread(lambda: release.wait(10))
    cancelled.cancel()
    release.set()
    await asyncio.wait({dropped})
    del dropped, cancelled
    gc.collect()
    await asyncio.sleep(0.05)
    assert complaints == []


def test_the_process_ends_without_it() -> None:
    program = """
import asyncio, time
from cloudisense.host.thread import in_thread

async def main():
    in_thread(lambda: time.sleep(60))
    await asyncio.sleep(0.05)

asyncio.run(main())
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, timeout=30, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
