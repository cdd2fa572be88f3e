import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudisense.host.probes import mount_point, read_file_system


def test_it_reads_what_the_kernel_says(tmp_path: Path) -> None:
    reading = read_file_system(str(tmp_path))
    raw = os.statvfs(tmp_path)
    assert reading.size == raw.f_blocks * raw.f_frsize
    assert 0 < reading.used <= reading.size
    assert reading.inodes == raw.f_files


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        # 1000 blocks, 100 free, 50 of them reserved for root: an ordinary user has 50 left
        ({"f_blocks": 1000, "f_bfree": 100, "f_bavail": 50, "f_files": 10, "f_ffree": 4, "f_favail": 3}, (4_096_000, 3_891_200, 10, 7)),
        ({"f_blocks": 1000, "f_bfree": 100, "f_bavail": 50, "f_files": 0, "f_ffree": 0, "f_favail": 0}, (4_096_000, 3_891_200, 0, 0)),
        # some FUSE file systems report more room than size, or less than none
        ({"f_blocks": 10, "f_bfree": 99, "f_bavail": 99, "f_files": 5, "f_ffree": 9, "f_favail": 9}, (40_960, 0, 5, 0)),
        ({"f_blocks": 10, "f_bfree": 0, "f_bavail": -1, "f_files": 5, "f_ffree": 0, "f_favail": -1}, (40_960, 40_960, 5, 5)),
    ],
)
def test_the_arithmetic(monkeypatch: pytest.MonkeyPatch, raw: dict[str, int], expected: tuple[int, ...]) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_frsize=4096, f_bsize=65536, **raw))
    reading = read_file_system("/anything")
    assert (reading.size, reading.used, reading.inodes, reading.inodes_used) == expected


def test_a_path_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_file_system(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        mount_point(str(tmp_path / "gone"))


def test_the_mount_point_is_where_the_device_begins(tmp_path: Path) -> None:
    found = mount_point(str(tmp_path))
    assert os.path.ismount(found)
    assert str(tmp_path).startswith(found)
    assert mount_point("/proc/self") == "/proc"
    assert mount_point("/") == "/"
