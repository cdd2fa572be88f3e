"""The clocks that the shell hands to the cores."""

import time
from pathlib import Path

import pytest

from cloudisense import clock
from cloudisense.mesh.instant import NS_PER_S


def test_boot_time_is_boottime_and_never_steps_back():
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    readings = [clock.read_clock() for _ in range(100)]
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    boot = [reading.boot_ns for reading in readings]
    assert boot == sorted(boot)
    assert before <= boot[0] <= boot[-1] <= after


def test_wall_time_is_unix_time():
    assert abs(clock.read_clock().wall_ns - time.time() * NS_PER_S) < NS_PER_S


@pytest.mark.parametrize(("wall_ns", "trusted"), [(0, False), (clock.EARLIEST_WALL_NS - 1, False), (clock.EARLIEST_WALL_NS, True)])
def test_an_unset_wall_clock_is_not_trusted(monkeypatch: pytest.MonkeyPatch, wall_ns: int, trusted: bool):
    monkeypatch.setattr(clock.time, "time_ns", lambda: wall_ns)
    assert clock.read_clock().wall_trusted is trusted


def test_boot_id_is_16_stable_bytes():
    assert len(clock.boot_id()) == 16
    assert clock.boot_id() == clock.boot_id()


def test_boot_id_is_the_kernels_own_text(tmp_path: Path):
    (tmp_path / "boot_id").write_text("00112233-4455-6677-8899-aabbccddeeff\n")
    assert clock.boot_id(tmp_path / "boot_id").hex() == "00112233445566778899aabbccddeeff"


@pytest.mark.parametrize("content", [None, b"", b"not a uuid\n", b"\xff\xfe"])
def test_an_unreadable_boot_id_is_one_clear_line(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "boot_id").write_bytes(content)
    with pytest.raises(ValueError, match="cannot read this host's boot id from") as caught:
        clock.boot_id(tmp_path / "boot_id")
    assert "\n" not in str(caught.value)
