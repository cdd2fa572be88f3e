"""The demo's fault is the same fault every time, whatever the fix before it left behind."""

import io
import itertools
import os
import random
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudisense.demo import writer

SIZE = 64 << 20
OTHERS = 10 << 20
"""Customers' data, cache and logs on the same disk."""
DAY_S = 86_400


@pytest.mark.parametrize("seed", range(20))
def test_the_second_fault_can_be_healed_by_what_healed_the_first(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def statvfs(folder: Path) -> SimpleNamespace:
        used = OTHERS + sum(path.stat().st_blocks * 512 for path in folder.iterdir())
        return SimpleNamespace(f_blocks=SIZE // 4096, f_bavail=(SIZE - used) // 4096, f_frsize=4096)

    monkeypatch.setattr(os, "statvfs", statvfs)
    monkeypatch.setattr(os, "urandom", bytes)
    monkeypatch.setattr(os, "getpid", itertools.count(1000).__next__)  # each run is a process of its own
    monkeypatch.setattr(sys, "argv", ["writer", str(tmp_path), "95"])
    random.seed(seed)
    for _ in range(2):
        monkeypatch.setattr(sys, "stdin", io.StringIO("go\n"))
        writer.main()
        old = [path for path in tmp_path.iterdir() if path.stat().st_mtime < time.time() - 7 * DAY_S]
        assert sum(path.stat().st_size for path in old) > 0.15 * SIZE, "the mildest plan reaches the goal"
        for path in old:
            path.unlink()
