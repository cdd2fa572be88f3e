"""The file removed is the file that was chosen, whatever happens between the look and the move."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudisense.host.outcome import StepFailed
from cloudisense.host.trash import move_new
from cloudisense.host.tree import TRASH


class Crash(BaseException):
    """The process dies here."""


def around_first_move(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None, after: Callable[[], object] = lambda: None
) -> None:
    """Do something just before, and just after, the first file is moved to the trash."""
    real, done = os.rename, []

    def rename(source, target, *, src_dir_fd=None, dst_dir_fd=None):
        first = not done and dst_dir_fd is not None
        if first:
            done.append(True)
            before()
        real(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        if first:
            after()

    monkeypatch.setattr(os, "rename", rename)


@pytest.fixture
def cache(host) -> Path:
    return host.folder("cache", "cache")


def test_another_file_of_that_name_goes_back(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, stranger = host.file(cache / "a"), host.file("stranger", b"precious")
    inode = stranger.stat().st_ino
    around_first_move(monkeypatch, lambda: os.replace(stranger, victim))
    assert host.run("clean_cache", cache).files == 0
    assert victim.read_bytes() == b"precious"
    assert victim.stat().st_ino == inode
    assert victim.stat().st_nlink == 1
    assert not (cache / TRASH).exists()


def test_a_symbolic_link_of_that_name_goes_back(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, canary = host.file(cache / "a"), host.file("outside/canary")
    before = host.contents(host.base / "outside")

    def swap() -> None:
        victim.unlink()
        victim.symlink_to(canary)

    around_first_move(monkeypatch, swap)
    assert host.run("clean_cache", cache).files == 0
    assert os.readlink(victim) == str(canary)
    assert host.contents(host.base / "outside") == before


def test_a_folder_of_that_name_goes_back(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = host.file(cache / "a")
    host.file("full/canary")

    def swap() -> None:
        victim.unlink()
        (host.base / "full").replace(victim)

    around_first_move(monkeypatch, swap)
    assert host.run("clean_cache", cache).files == 0
    assert (victim / "canary").is_file()
    assert not (cache / TRASH).exists()


def test_a_file_written_to_meanwhile_goes_back(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = host.file(cache / "a", b"old")
    around_first_move(monkeypatch, after=lambda: (cache / TRASH / os.listdir(cache / TRASH)[0]).write_bytes(b"new"))
    assert host.run("clean_cache", cache).files == 0
    assert victim.read_bytes() == b"new"


def test_a_folder_moved_out_keeps_its_files(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.file(cache / "sub/a")
    around_first_move(monkeypatch, lambda: (cache / "sub").rename(host.base / "saved"))
    assert host.run("clean_cache", cache).files == 0
    assert (host.base / "saved/a").is_file()


def test_with_its_name_taken_again_a_stranger_is_kept_for_a_person(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, stranger = host.file(cache / "a"), host.file("stranger", b"precious")
    around_first_move(monkeypatch, lambda: os.replace(stranger, victim), lambda: victim.write_bytes(b"newest"))
    with pytest.raises(StepFailed, match="file exists"):
        host.run("clean_cache", cache)
    assert victim.read_bytes() == b"newest"
    (kept,) = (cache / TRASH).iterdir()
    assert kept.read_bytes() == b"precious"
    monkeypatch.undo()
    assert host.measure("clean_cache", cache).files == 1
    assert host.run("clean_cache", cache).files == 1
    assert kept.read_bytes() == b"precious", "what is not known to be ours is never purged"


def test_what_a_crash_left_is_counted_and_purged(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        host.file(cache / name)
    expected = host.measure("clean_cache", cache)
    with monkeypatch.context() as patch:

        def die() -> None:
            raise Crash

        around_first_move(patch, after=die)
        with pytest.raises(Crash):
            host.run("clean_cache", cache)
        # A trash that a dead process left: rmdir did not find it empty.
        assert len(list((cache / TRASH).iterdir())) == 1
    assert host.measure("clean_cache", cache) == expected
    outcome = host.run("clean_cache", cache)
    assert (outcome.freed_bytes, outcome.files) == (expected.frees_bytes, 3)
    assert not list(cache.iterdir())


def test_a_crash_before_the_second_look_loses_no_stranger(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, stranger = host.file(cache / "a"), host.file("stranger", b"precious")

    def die() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        around_first_move(patch, lambda: os.replace(stranger, victim), die)
        with pytest.raises(Crash):
            host.run("clean_cache", cache)
    assert host.run("clean_cache", cache).files == 0
    assert [path.read_bytes() for path in (cache / TRASH).iterdir()] == [b"precious"]


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_a_trash_that_is_not_ours_is_refused(host, cache: Path, kind: str) -> None:
    host.file(cache / "a")
    host.file("outside/canary")
    if kind == "link":
        (cache / TRASH).symlink_to(host.base / "outside")
    elif kind == "open":
        (cache / TRASH).mkdir()
        (cache / TRASH).chmod(0o777)
    else:
        (cache / TRASH).write_text("")
    before = host.contents(host.base)
    assert host.measure("clean_cache", cache).files == 0
    with pytest.raises(StepFailed, match="not a folder of ours"):
        host.run("clean_cache", cache)
    assert host.contents(host.base) == before


def test_a_trash_of_another_owner_is_refused(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.file(cache / "a")
    (cache / TRASH).mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StepFailed, match="not a folder of ours"):
        host.run("clean_cache", cache)
    assert (cache / "a").exists()


def test_when_no_folder_entry_fits_files_go_directly(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        host.file(cache / f"{number}")
    expected = host.measure("clean_cache", cache)
    real, calls = os.mkdir, []

    def mkdir(path, mode=0o777, *, dir_fd=None):
        calls.append(len(list(cache.iterdir())))
        if len(calls) < 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", mkdir)
    outcome = host.run("clean_cache", cache)
    assert (outcome.freed_bytes, outcome.files) == (expected.frees_bytes, 5)
    assert calls == [5, 4, 3], "as soon as the trash fits, it is used"


def test_even_then_another_file_of_that_name_stays(host, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, stranger = host.file(cache / "a"), host.file("stranger", b"precious")

    def mkdir(path, mode=0o777, *, dir_fd=None):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def swap(device: int) -> frozenset[tuple[int, int]]:
        os.replace(stranger, victim)
        return frozenset()

    monkeypatch.setattr(os, "mkdir", mkdir)
    monkeypatch.setattr("cloudisense.host.actions.open_files", swap)
    assert host.run("clean_cache", cache).files == 0
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize("links", [True, False])
def test_moving_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def link(*arguments, **options):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(os, "link", link)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(FileExistsError):
            move_new(fd, "a", fd, "b")
        assert ((tmp_path / "a").read_text(), (tmp_path / "b").read_text()) == ("a", "b")
        move_new(fd, "a", fd, "c")
    finally:
        os.close(fd)
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    assert (tmp_path / "c").stat().st_nlink == 1
