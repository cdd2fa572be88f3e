import os
import time
from pathlib import Path

import pytest

from cloudisense.host.catalogue import declare
from cloudisense.host.outcome import StepFailed
from cloudisense.host.tree import DEPTH_MAX, TRASH, Found, Tree, until


def names(tree: Tree) -> list[str]:
    return sorted("/".join((*found.folder, found.name)) for found in tree.files())


def test_only_what_may_go_is_shown(host) -> None:
    root = host.folder("tmp", "temp")
    outside = host.file("outside/canary")
    for name in ("plain", "deep/er/file", "-rf", "new\nline", "\udcff\udc80"):
        host.file(root / name)
    host.file(root / "twin-a")
    os.link(root / "twin-a", host.base / "twin-b")
    (root / "to-file").symlink_to(outside)
    (root / "to-folder").symlink_to(outside.parent)
    os.mkfifo(root / "fifo")
    host.file(root / TRASH / "ours")
    with Tree(str(root), declare(host.roles)) as tree:
        assert names(tree) == sorted(["plain", "deep/er/file", "-rf", "new\nline", "\udcff\udc80"])
        assert names(tree) == names(tree), "a walk does not move the next one's start"


def test_inner_declarations_are_not_entered(host) -> None:
    root = host.folder("tmp", "temp")
    host.file(root / "a/keep/canary")
    host.file(root / "a/other/canary")
    host.file(root / "a/keeper/goes")
    host.folder("tmp/a/keep", "data")
    host.folder("tmp/a/other", "cache")
    with Tree(str(root), declare(host.roles)) as tree:
        assert names(tree) == ["a/keeper/goes"]
        assert tree.enter(("a", "keep")) is None
        # Moved while we look: its inode still tells.
        (root / "a/keep").rename(root / "moved")
        assert names(tree) == ["a/keeper/goes"]
        assert tree.enter(("moved",)) is None


def test_a_new_folder_in_place_of_an_inner_one_is_not_entered(host) -> None:
    root, inner = host.folder("tmp", "temp"), host.folder("tmp/keep", "data")
    with Tree(str(root), declare(host.roles)) as tree:
        inner.rename(host.base / "away")
        host.file(root / "keep/restored")
        assert names(tree) == []
        assert tree.enter(("keep",)) is None


def test_a_link_is_never_entered(host, monkeypatch: pytest.MonkeyPatch) -> None:
    root = host.folder("tmp", "temp")
    host.file("outside/canary")
    host.file(root / "sub/file")
    paths = declare(host.roles)
    real = os.open

    def swap_first(path, flags, mode=0o777, *, dir_fd=None):
        if path == "sub" and not (root / "sub").is_symlink():
            (root / "sub").rename(root / "real")
            (root / "sub").symlink_to(host.base / "outside")
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", swap_first)
    with Tree(str(root), paths) as tree:
        assert "sub/canary" not in names(tree), "it was a folder when its name was read"
        assert (root / "sub").is_symlink()
        assert tree.enter(("sub",)) is None


def test_a_missing_data_folder_stops_everything_around_it(host) -> None:
    root, inner = host.folder("tmp", "temp"), host.folder("tmp/keep", "data")
    elsewhere = host.folder("elsewhere", "data")
    paths = declare(host.roles)
    elsewhere.rmdir()
    with Tree(str(root), paths):
        pass
    inner.rename(root / "renamed")
    with pytest.raises(StepFailed, match="data folder .* cannot be found"), Tree(str(root), paths):
        pass
    inner.symlink_to(root / "renamed")
    with pytest.raises(StepFailed, match="data folder .* cannot be found"), Tree(str(root), paths):
        pass


def test_no_symbolic_link_anywhere_above_the_root(host) -> None:
    root = host.folder("a/b", "temp")
    paths = declare(host.roles)
    (host.base / "a").rename(host.base / "real")
    (host.base / "a").symlink_to(host.base / "real")
    assert root.is_dir()
    with pytest.raises(StepFailed, match="cannot open"), Tree(str(root), paths):
        pass


def test_the_depth_is_bounded(host) -> None:
    root = host.folder("tmp", "temp")
    host.file(root.joinpath(*["d"] * DEPTH_MAX, "last"))
    host.file(root.joinpath(*["d"] * (DEPTH_MAX + 1), "too-deep"))
    with Tree(str(root), declare(host.roles)) as tree:
        assert [found.name for found in tree.files()] == ["last"]


def test_the_names_read_are_bounded(host, monkeypatch: pytest.MonkeyPatch) -> None:
    root = host.folder("tmp", "temp")
    for number in range(30):
        host.file(root / f"{number % 3}/{number}")
    monkeypatch.setattr("cloudisense.host.tree.SEEN_MAX", 10)
    with Tree(str(root), declare(host.roles)) as tree:
        assert 0 < len(list(tree.files())) < 10


def test_two_runs_exclude_each_other(host) -> None:
    root = host.folder("tmp", "temp")
    paths = declare(host.roles)
    with Tree(str(root), paths) as first, Tree(str(root), paths) as second:
        first.lock()
        with pytest.raises(StepFailed, match="locked"):
            second.lock()
    with Tree(str(root), paths) as third:
        third.lock()


def test_a_folder_that_moved_is_not_here(host) -> None:
    root = host.folder("tmp", "temp")
    host.folder("tmp/sub")
    with Tree(str(root), declare(host.roles)) as tree:
        fd = tree.enter(("sub",))
        assert fd is not None
        assert tree.still_here(fd, ("sub",))
        (root / "sub").rename(host.base / "away")
        assert not tree.still_here(fd, ("sub",))
        (root / "sub").mkdir()
        assert not tree.still_here(fd, ("sub",)), "another folder of that name is another folder"
        os.close(fd)


def test_in_a_sticky_folder_only_owners_remove(host, monkeypatch: pytest.MonkeyPatch) -> None:
    root = host.folder("tmp", "temp")
    host.file(root / "file")
    root.chmod(0o1777)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 12345)
    with Tree(str(root), declare(host.roles)) as tree:
        assert names(tree) == []
    root.chmod(0o777)
    with Tree(str(root), declare(host.roles)) as tree:
        assert names(tree) == ["file"]


def test_no_descriptor_is_left(host) -> None:
    root = host.folder("tmp", "temp")
    for number in range(20):
        host.file(root / f"a/b/{number}/f")
    before = len(os.listdir("/proc/self/fd"))
    with Tree(str(root), declare(host.roles)) as tree:
        list(tree.files())
        half = tree.files()
        next(half)
        half.close()
        assert tree.enter(("a", "gone", "c")) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_time_ends_a_walk() -> None:
    found = Found((), "a", 1, 1, 0, 1, 512)
    assert list(until(time.monotonic() + 60, [found])) == [found]
    with pytest.raises(StepFailed, match="out of time"):
        list(until(time.monotonic(), [found]))


def test_found_knows_its_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 5000)
    found = Found.of((), "a", path.stat())
    assert found.is_still(path.stat())
    assert found.allocated == path.stat().st_blocks * 512
    os.link(path, tmp_path / "b")
    assert not found.is_still(path.stat())
    (tmp_path / "b").unlink()
    assert found.is_still(path.stat())
    with path.open("ab") as file:
        file.write(b"y")
    os.utime(path, ns=(found.mtime_ns, found.mtime_ns))
    assert not found.is_still(path.stat())
