import os
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudisense.agent.plan import Measured
from cloudisense.host.actions import HANDLERS
from cloudisense.host.outcome import StepFailed

NOTHING = Measured(0, 0, 0, "")


def test_a_cache_is_emptied_and_its_folders_stay(host) -> None:
    cache = host.folder("cache", "cache")
    paths = [host.file(cache / name) for name in ("plain", "a/b/c", "-rf", "--", "new\nline", "\udcff\udc80", " ", "*", "$(reboot)")]
    freed = sum(path.stat().st_blocks * 512 for path in paths)
    measured = host.measure("clean_cache", cache)
    assert measured == Measured(freed, 9, 9, "9 files")
    outcome = host.run("clean_cache", cache)
    assert (outcome.freed_bytes, outcome.files, outcome.detail) == (freed, 9, "removed 9 files")
    assert sorted(os.listdir(cache)) == ["a"]
    assert (cache / "a/b").is_dir()
    assert host.measure("clean_cache", cache) == NOTHING
    assert host.run("clean_cache", cache).files == 0


@pytest.mark.parametrize(
    ("age", "left"), [("1h", {"30m", "1h", "future"}), ("6h", {"30m", "1h", "2h", "future"}), ("1d", {"30m", "1h", "2h", "7h", "future"})]
)
def test_only_files_older_than_the_age_go(host, age: str, left: set[str]) -> None:
    tmp = host.folder("tmp", "temp")
    for name, hours in {"30m": 0.5, "1h": 1, "2h": 2, "7h": 7, "2d": 48, "future": -5}.items():
        host.file(tmp / name, age_s=hours * 3600)
    measured = host.measure("purge_old_files", tmp, age)
    outcome = host.run("purge_old_files", tmp, age)
    assert set(os.listdir(tmp)) == left
    assert (outcome.files, outcome.freed_bytes) == (measured.files, measured.frees_bytes)
    assert "older than" in measured.detail


def test_what_is_no_plain_file_stays(host) -> None:
    cache = host.folder("cache", "cache")
    canary = host.file("outside/canary")
    (cache / "link").symlink_to(canary)
    (cache / "folder-link").symlink_to(canary.parent)
    (cache / "dangling").symlink_to("nowhere")
    os.mkfifo(cache / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(cache / "s"))
        host.file(cache / "twin")
        os.link(cache / "twin", host.base / "other-name")
        before = host.contents(host.base)
        host.file(cache / "goes")
        assert host.run("clean_cache", cache).files == 1
    assert host.contents(host.base) == before


def test_open_files_stay(host) -> None:
    tmp = host.folder("tmp", "temp")
    held = host.file(tmp / "held")
    host.file(tmp / "free")
    with held.open("rb"):
        assert host.measure("purge_old_files", tmp, "1h").files == 1
        assert host.run("purge_old_files", tmp, "1h").files == 1
        assert os.listdir(tmp) == ["held"]
    assert host.run("purge_old_files", tmp, "1h").files == 1


def test_an_inner_declaration_wins(host) -> None:
    tmp = host.folder("tmp", "temp")
    host.file(tmp / "keep/precious")
    host.file(tmp / "keep/deeper/precious")
    host.file(tmp / "goes")
    inner = host.folder("tmp/keep", "data")
    before = host.contents(inner)
    assert host.run("purge_old_files", tmp, "1h").files == 1
    assert host.contents(inner) == before


def test_the_oldest_go_first_and_what_was_done_in_time_counts(host, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host.folder("cache", "cache")
    for number in range(40):
        host.file(cache / f"{number % 3}/{number:02}", age_s=1000 + number)
    real = os.rename

    def slow(*arguments, **options):
        time.sleep(0.01)
        real(*arguments, **options)

    monkeypatch.setattr(os, "rename", slow)
    paths = tuple(host.catalogue.paths.values())
    with pytest.raises(StepFailed, match="out of time") as failed:
        HANDLERS["clean_cache"].run(host.step("clean_cache", cache), paths, host.wall_ns, time.monotonic() + 0.15)
    left = sorted(path.name for path in cache.rglob("*") if path.is_file())
    assert 0 < failed.value.files == 40 - len(left) < 40
    assert failed.value.freed_bytes > 0
    assert left == [f"{number:02}" for number in range(len(left))], "number 39 was the oldest"


def test_files_in_memory_are_bounded(host, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host.folder("cache", "cache")
    for number in range(20):
        host.file(cache / f"{number:02}", age_s=1000 + number)
    monkeypatch.setattr("cloudisense.host.actions.FILES_MAX", 5)
    assert host.measure("clean_cache", cache).files == 5
    assert host.run("clean_cache", cache).files == 5
    assert sorted(os.listdir(cache)) == [f"{number:02}" for number in range(15)]


def test_vanishing_files_are_no_trouble(host) -> None:
    cache = host.folder("cache", "cache")
    for number in range(300):
        host.file(cache / f"{number % 7}/{number}")

    def rival() -> None:
        for path in sorted(cache.rglob("*"), reverse=True):
            if path.is_file():
                path.unlink(missing_ok=True)

    thread = threading.Thread(target=rival)
    thread.start()
    outcome = host.run("clean_cache", cache)
    thread.join()
    assert outcome.files <= 300
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_folder_swapped_for_a_link_again_and_again_leads_nowhere(host) -> None:
    """The race itself, for a bounded time: a rival swaps a folder, and a file, for links to what must not be touched."""
    cache = host.folder("cache", "cache")
    outside = host.base / "outside"
    for number in range(20):
        host.file(outside / f"{number}", f"canary {number}".encode())
    before = host.contents(outside)
    stop = threading.Event()
    swaps = [0]

    def rival() -> None:
        sub, parked = cache / "sub", host.base / "parked"
        while not stop.is_set():
            sub.rename(parked)
            sub.symlink_to(outside)
            sub.unlink()
            parked.rename(sub)
            swaps[0] += 1
            time.sleep(swaps[0] % 7 * 0.0005)  # now at once, now after some files have gone

    (cache / "sub").mkdir()
    thread = threading.Thread(target=rival)
    thread.start()
    removed = 0
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for number in range(20):
                for place in (cache / "sub", host.base / "parked"):
                    try:
                        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                    except OSError:
                        continue
                    os.close(os.open(f"{number}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
                    os.close(fd)
                    break
            try:
                removed += host.run("clean_cache", cache).files
            except StepFailed:
                continue
    finally:
        stop.set()
        thread.join()
    assert swaps[0] > 100, "the rival did swap"
    assert removed > 0, "and the action did work meanwhile"
    assert host.contents(outside) == before


def test_five_thousand_files_take_seconds(host) -> None:
    cache = host.folder("cache", "cache")
    for number in range(5000):
        path = cache / f"{number % 50}"
        path.mkdir(exist_ok=True)
        (path / f"{number}").write_bytes(b"x")
    begin = time.monotonic()
    assert host.measure("clean_cache", cache).files == 5000
    assert host.run("clean_cache", cache).files == 5000
    assert time.monotonic() - begin < 8  # 0.6 s on two shared cores


NAMES = st.sampled_from(["a", "b", "keep", "-rf", "new\nline", "\udcff\udc80", "...", " ", "*", "name.1", "é" * 60])
FILES = st.lists(
    st.tuples(
        st.lists(NAMES, min_size=1, max_size=4),
        st.sampled_from(["file", "file", "file", "link", "folder-link", "fifo", "twin"]),
        st.sampled_from([0, 1, 5000, 70_000]),
        st.sampled_from([-10, 60, 3599, 3601, 90_000]),
    ),
    max_size=14,
)


@settings(max_examples=60)
@given(
    files=FILES,
    inner=st.lists(st.tuples(NAMES, st.sampled_from(["data", "cache"])), max_size=2, unique_by=lambda pair: pair[0]),
    aged=st.booleans(),
)
def test_any_tree(host_at, files, inner, aged: bool) -> None:
    """What is freed is what was estimated; nothing outside, nothing declared inside, and nothing but plain old files changes."""
    with tempfile.TemporaryDirectory() as base:
        host = host_at(Path(base))
        root = host.folder("root", "temp" if aged else "cache")
        canary = host.file("outside/canary")
        for name, role in inner:
            if name != "\udcff\udc80":
                host.folder(f"root/{name}", role)
        for number, (parts, kind, size, age_s) in enumerate(files):
            path = root.joinpath(*parts)
            if os.path.lexists(path):
                continue
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if kind == "file":
                    host.file(path, os.urandom(size), age_s)
                elif kind == "twin":
                    os.link(host.file(f"outside/{number}", age_s=age_s), path)
                elif kind == "fifo":
                    os.mkfifo(path)
                else:
                    path.symlink_to(canary if kind == "link" else canary.parent)
            except (FileExistsError, NotADirectoryError):  # an earlier one stands in the way
                continue
        declared = {os.path.realpath(path) for path, _ in host.roles[1:]}
        action, age = ("purge_old_files", "1h") if aged else ("clean_cache", "")
        before = host.contents(host.base)
        measured = host.measure(action, root, age)
        assert host.contents(host.base) == before, "an estimate changes nothing"
        outcome = host.run(action, root, age)
        after = host.contents(host.base)
        assert (outcome.freed_bytes, outcome.files) == (measured.frees_bytes, measured.files)
        gone = before.keys() - after.keys()
        assert len(gone) == measured.files
        assert {name: before[name] for name in after} == after
        for name in gone:
            path = str(host.base / name)
            assert name.startswith("root/")
            assert before[name].startswith("100"), "a regular file"
            assert not any(path.startswith(folder + "/") for folder in declared)
        assert host.measure(action, root, age) == NOTHING
