"""Candidates, requests and GGUF files for the planner's tests; the real model where it is there."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from cloudisense.agent.plan import Candidate, Measured, PlanRequest, Step

TITLES = (
    "Delete files older than 7 days in the cache folder /data/cache.",
    "Compress log files in /data/logs.",
    "Restart the mail service.",
    "Delete files older than 1 day in the temporary folder /data/tmp.",
)
SIGNATURES = ("purge_old_files age=7d role=cache", "compress_logs role=logs", "restart name=mail", "purge_old_files age=1d role=temp")
SYMPTOM = "/data is 95 % full, 95.1 of 100 MB, because of old temporary files in /data/tmp."


@pytest.fixture
def candidate() -> Callable[..., Candidate]:
    """Makes a candidate."""

    def make(signature: str = SIGNATURES[0], title: str = TITLES[0], detail: str = "212 files older than 1 day") -> Candidate:
        step = Step(signature.partition(" ")[0], bytes(32), ())
        return Candidate(signature, title, (step,), Measured(45_100_000, 1_212, 212, detail), "reversible")

    return make


@pytest.fixture
def request_for(candidate: Callable[..., Candidate]) -> Callable[..., PlanRequest]:
    """Makes a request with the four candidates above, or with those given."""

    def make(symptom: str = SYMPTOM, candidates: tuple[Candidate, ...] | None = None, goal_inodes: int = 0) -> PlanRequest:
        if candidates is None:
            candidates = tuple(candidate(s, t) for s, t in zip(SIGNATURES, TITLES, strict=True))
        return PlanRequest("abc", "disk_full", symptom, 9_800_000, goal_inodes, candidates)

    return make


@pytest.fixture(scope="session")
def tiny_gguf() -> bytes:
    """A whole and valid GGUF file with one tensor and one array in its metadata; far too small to be a model."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    metadata = text("general.architecture") + struct.pack("<I", 8) + text("llama")
    metadata += text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b")
    metadata += text("scores") + struct.pack("<IIQff", 9, 6, 2, 0.5, 0.25)
    tensor = text("weight") + struct.pack("<IQQIQ", 2, 8, 4, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 3) + metadata + tensor
    return head + bytes(-len(head) % 32) + bytes(8 * 4 * 4)


@pytest.fixture(scope="session")
def model_path() -> Path:
    """The real model. Without it, and without llama-cpp-python, the tests that measure it are skipped."""
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    found = os.environ.get("CLOUDISENSE_TEST_MODEL") or Path(platformdirs.user_data_dir("cloudisense")) / "models/smollm2.gguf"
    if not Path(found).is_file():
        pytest.skip("no model: cloudisense llm add smollm2, or CLOUDISENSE_TEST_MODEL=/path/to/smollm2.gguf")
    return Path(found)
