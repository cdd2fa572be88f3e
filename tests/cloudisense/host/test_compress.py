import errno
import gzip
import os
import random
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from cloudisense.agent.plan import Measured
from cloudisense.host import compress
from cloudisense.host.outcome import StepFailed
from cloudisense.host.tree import TRASH

LINES = b"".join(
    b"2024-05-01T00:%02d:%02d host app[%d]: request %d served\n" % (n // 60 % 60, n % 60, n * 7919 % 999, n) for n in range(20_000)
)
NOTHING = Measured(0, 0, 0, "")


@pytest.fixture
def logs(host) -> Path:
    return host.folder("logs", "logs")


@pytest.mark.parametrize("name", ["app.1", "app.log.2", "app.old", "deep/er/app.log.10", "-rf.1", "new\nline.1", "\udcff.old"])
def test_a_rotated_log_is_replaced_by_its_copy(host, logs: Path, name: str) -> None:
    log = host.file(logs / name, LINES)
    log.chmod(0o640)
    was = log.stat()
    measured = host.measure("compress_logs", logs)
    assert host.contents(logs)[name]
    outcome = host.run("compress_logs", logs)
    copy = log.with_name(log.name + ".gz")
    assert not log.exists()
    assert gzip.decompress(copy.read_bytes()) == LINES
    now = copy.stat()
    assert (now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns, now.st_nlink) == (was.st_mode, was.st_uid, was.st_gid, was.st_mtime_ns, 1)
    assert outcome.freed_bytes == (was.st_blocks - now.st_blocks) * 512
    assert 0 < measured.frees_bytes <= outcome.freed_bytes, "the estimate promises no more than is kept"
    assert (measured.files, outcome.files) == (1, 1)
    assert not (logs / TRASH).exists()
    assert host.measure("compress_logs", logs) == NOTHING
    assert host.run("compress_logs", logs).files == 0


@pytest.mark.parametrize(
    "name", ["app.log", "app", "app.1.gz", "1", ".1", "app.12345", "10.0.0.1", "host-10.0.0.1", "app.older", "app.1.bak", "app-1"]
)
def test_other_names_stay(host, logs: Path, name: str) -> None:
    host.file(logs / name, LINES)
    before = host.contents(logs)
    assert host.measure("compress_logs", logs) == NOTHING
    assert host.run("compress_logs", logs).files == 0
    assert host.contents(logs) == before


def test_what_stays_for_other_reasons(host, logs: Path) -> None:
    canary = host.file("outside/canary.1", LINES)
    held = host.file(logs / "held.1", LINES)
    host.file(logs / "taken.1", LINES)
    host.file(logs / "taken.1.gz", b"someone else's")
    host.file(logs / "dense.1", random.Random(1).randbytes(500_000))
    host.file(logs / "tiny.1", b"x")
    host.file(logs / "twin.1", LINES)
    os.link(logs / "twin.1", host.base / "twin")
    (logs / "link.1").symlink_to(canary)
    os.mkfifo(logs / "fifo.1")
    with (logs / "sparse.1").open("wb") as file:
        file.truncate(1 << 40)
    before = host.contents(host.base / "outside"), sorted(os.listdir(logs))
    with held.open("ab"):
        assert host.measure("compress_logs", logs) == NOTHING
        assert host.run("compress_logs", logs).files == 0
    assert (host.contents(host.base / "outside"), sorted(os.listdir(logs))) == before
    assert (logs / "taken.1.gz").read_bytes() == b"someone else's"


def test_the_attributes_come_along(host, logs: Path) -> None:
    log = host.file(logs / "app.1", LINES)
    try:
        os.setxattr(log, "user.origin", b"here")
    except OSError:
        pytest.skip("this file system has no attributes")
    host.run("compress_logs", logs)
    assert os.getxattr(logs / "app.1.gz", "user.origin") == b"here"


def on_first_read(monkeypatch: pytest.MonkeyPatch, action) -> None:
    real, done = os.read, []

    def read(fd, size):
        data = real(fd, size)
        if not done:
            done.append(True)
            action()
        return data

    monkeypatch.setattr(os, "read", read)


def test_a_log_written_to_meanwhile_stays(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = host.file(logs / "app.1", LINES)

    def append() -> None:
        with log.open("ab") as file:
            file.write(b"late\n")

    on_first_read(monkeypatch, append)
    assert host.run("compress_logs", logs).files == 0
    assert os.listdir(logs) == ["app.1"]
    assert log.read_bytes() == LINES + b"late\n"


def test_a_log_rotated_on_meanwhile_stays(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = host.file(logs / "app.1", LINES)

    def rotate() -> None:
        log.rename(logs / "app.2")
        log.write_bytes(b"newer")

    on_first_read(monkeypatch, rotate)
    assert host.run("compress_logs", logs).files == 0
    assert {path.name: path.read_bytes() for path in logs.iterdir()} == {"app.1": b"newer", "app.2": LINES}


def test_a_log_that_vanishes_leaves_no_copy(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = host.file(logs / "app.1", LINES)
    on_first_read(monkeypatch, log.unlink)
    assert host.run("compress_logs", logs).files == 0
    assert os.listdir(logs) == []


def test_the_copy_is_durable_before_the_log_goes(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.file(logs / "app.1", LINES)
    done: list[str] = []

    def noted(name: str):
        real = getattr(os, name)

        def call(*arguments, **options):
            done.append(f"fsync {'folder' if stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else 'file'}" if name == "fsync" else name)
            return real(*arguments, **options)

        return call

    for name in ("fsync", "link", "rename"):
        monkeypatch.setattr(os, name, noted(name))
    assert host.run("compress_logs", logs).files == 1
    assert done == ["fsync file", "link", "fsync folder", "rename"]


def test_a_crash_with_the_copy_in_place_loses_and_counts_nothing(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Crash(BaseException):
        pass

    def die(*arguments, **options):
        raise Crash

    host.file(logs / "app.1", LINES)
    executor, step = host.executor, host.step("compress_logs", logs)
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", die)  # the second link stands, the first one is still in the trash
        with pytest.raises(Crash):
            executor.run(step, host.wall_ns)
    assert (logs / "app.1").read_bytes() == gzip.decompress((logs / "app.1.gz").read_bytes()) == LINES
    assert len(os.listdir(logs / TRASH)) == 1
    assert executor.measure(step, host.wall_ns).frees_bytes == 0
    assert executor.run(step, host.wall_ns).freed_bytes == 0
    assert sorted(os.listdir(logs)) == ["app.1", "app.1.gz"]
    assert (logs / "app.1.gz").stat().st_nlink == 1


@pytest.mark.parametrize("answer", [b"", os.urandom(256 * 1024)], ids=["short", "endless"])
def test_a_log_read_short_or_without_end_stays(host, logs: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    log = host.file(logs / "app.1", LINES)
    real, calls = os.read, []

    def read(fd, size):
        calls.append(True)
        assert len(calls) < 100, "it would read for ever"
        return real(fd, size) if len(calls) == 1 else answer

    executor, step = host.executor, host.step("compress_logs", logs)
    monkeypatch.setattr(os, "read", read)
    assert executor.run(step, host.wall_ns).files == 0
    assert os.listdir(logs) == ["app.1"]
    assert log.stat().st_size == len(LINES)


def test_a_copy_that_outgrows_its_estimate_stops_at_half_of_what_is_free(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = random.Random(3).randbytes(3_000_000)
    host.file(logs / "app.1", b"\0" * 10_000_000 + noise)
    written = [0]
    real = os.write

    def write(fd, data):
        written[0] += len(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    monkeypatch.setattr(compress, "_room", lambda fd: 500_000)
    with pytest.raises(StepFailed, match="no room"):
        host.run("compress_logs", logs)
    assert 0 < written[0] < 1_000_000
    assert os.listdir(logs) == ["app.1"]


@pytest.mark.parametrize("call", ["fsync", "link", "utime", "fchown", "rename", "open"])
@pytest.mark.parametrize("when", [1, 2])
def test_no_failure_loses_a_line(host, logs: Path, monkeypatch: pytest.MonkeyPatch, call: str, when: int) -> None:
    """Whatever call fails, the lines are still there: in the log, in its copy, or in both."""
    log = host.file(logs / "app.1", LINES)
    executor, step = host.executor, host.step("compress_logs", logs)
    real, calls = getattr(os, call), []

    def fail(*arguments, **options):
        if call != "open" or arguments[1] & os.O_CREAT:
            calls.append(True)
            if len(calls) == when:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if when == 1:
            with pytest.raises(StepFailed, match="input/output error"):
                executor.run(step, host.wall_ns)
            assert log.read_bytes() == LINES
        else:
            try:
                executor.run(step, host.wall_ns)
            except StepFailed:
                assert log.read_bytes() == LINES
    copy = logs / "app.1.gz"
    assert log.exists() or gzip.decompress(copy.read_bytes()) == LINES
    host.run("compress_logs", logs)
    assert (log.exists() and log.read_bytes() == LINES) or gzip.decompress(copy.read_bytes()) == LINES
    assert not (logs / TRASH).exists()


def test_half_of_what_is_free_stays_free(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.file(logs / "app.1", LINES)
    host.file(logs / "app.2", LINES * 3)
    free = [10]
    monkeypatch.setattr(os, "fstatvfs", lambda fd: SimpleNamespace(f_bavail=free[0], f_frsize=4096))
    assert host.measure("compress_logs", logs) == NOTHING
    with pytest.raises(StepFailed, match="no room for a compressed copy"):
        host.run("compress_logs", logs)
    assert sorted(os.listdir(logs)) == ["app.1", "app.2"]


def test_what_found_no_room_is_tried_again(host, logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.file(logs / "small.1", LINES)
    host.file(logs / "large.1", LINES * 3)
    monkeypatch.setattr(compress, "_room", lambda fd: 10**9 if (logs / "small.1.gz").exists() else 300_000)
    assert host.run("compress_logs", logs).detail == "compressed 2 rotated logs"
    assert sorted(os.listdir(logs)) == ["large.1.gz", "small.1.gz"]


def test_the_estimate_is_cautious_where_the_start_misleads(host, logs: Path) -> None:
    """Zeros first, noise behind: the sample says all is well, and the run then keeps the log."""
    host.file(logs / "app.1", b"\0" * 300_000 + random.Random(2).randbytes(3_000_000))
    before = host.contents(logs)
    outcome = host.run("compress_logs", logs)
    if outcome.files:
        assert outcome.freed_bytes > 0
    else:
        assert host.contents(logs) == before
