"""A second opinion on the lease: spin looks at every history of a small model, and finds what each missing rule lets in."""

import shutil
import subprocess
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parent / "check.sh"
NEEDS_SPIN = pytest.mark.skipif(not shutil.which("spin") or not shutil.which("cc"), reason="needs Debian's spin and a C compiler")
SMALL = ("-DREQUESTS=2", "-DROUNDS=2", "-DCRASHES=1")
MEDIUM = ("-DREQUESTS=3", "-DROUNDS=2", "-DCRASHES=1")
BROKEN = {
    "HALF": MEDIUM, "NO_QUARANTINE": MEDIUM, "FROM_RECEIPT": MEDIUM, "NO_SEAL": MEDIUM, "NO_WAIT": MEDIUM, "NO_FLOOR": MEDIUM,
    "REPLY_EARLY": MEDIUM, "FREE_OLDER": ("-DREQUESTS=3", "-DROUNDS=3", "-DCRASHES=1"),
}  # fmt: skip


def check(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(CHECK), *options], capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.slow
@NEEDS_SPIN
def test_no_small_history_breaks() -> None:
    """`make model` looks at those with one request more."""
    done = check(*SMALL)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@NEEDS_SPIN
@pytest.mark.parametrize("rule", BROKEN)
def test_without_a_rule_it_breaks(rule: str) -> None:
    done = check(f"-D{rule}", *BROKEN[rule])
    assert done.returncode == 1 and "assertion violated" in done.stdout, done.stdout + done.stderr
