import errno
import os

import msgspec
import pytest

from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.plan import Measured, Step
from cloudisense.host.actions import HANDLERS
from cloudisense.host.catalogue import builtin_actions, declare
from cloudisense.host.executor import Executor, StepFailed
from cloudisense.host.tree import Tree

NOTHING = Measured(0, 0, 0, "")


def refused(host, step: Step) -> str:
    before = host.contents(host.base)
    assert host.executor.measure(step, host.wall_ns) == NOTHING
    with pytest.raises(StepFailed) as failed:
        host.executor.run(step, host.wall_ns)
    assert host.contents(host.base) == before
    return failed.value.reason


def test_the_catalogue_is_asked_again(host) -> None:
    cache, data, other = host.folder("cache", "cache"), host.folder("data", "data"), host.folder("other")
    for path in (cache, data, other):
        host.file(path / "file")
    good = host.step("clean_cache", cache)
    assert "no action" in refused(host, msgspec.structs.replace(good, action="rm"))
    assert "another one" in refused(host, msgspec.structs.replace(good, definition=b"\0" * 32))
    assert "not allowed" in refused(host, host.step("clean_cache", data))
    assert "not allowed" in refused(host, host.step("clean_cache", other))
    assert "not allowed" in refused(host, host.step("clean_cache", str(cache) + "/../data"))
    assert "not allowed" in refused(host, host.step("purge_old_files", cache, "1h"))
    assert "wrong parameters" in refused(host, msgspec.structs.replace(good, values=(*good.values, ("force", "yes"))))
    assert host.executor.run(good, host.wall_ns).files == 1


def test_an_action_without_a_handler_does_nothing(host, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host.folder("cache", "cache")
    host.file(cache / "file")
    monkeypatch.delitem(HANDLERS, "clean_cache")
    assert "does not know how" in refused(host, host.step("clean_cache", cache))


@pytest.mark.parametrize(
    ("action", "role", "age"), [("clean_cache", "cache", ""), ("purge_old_files", "temp", "1h"), ("compress_logs", "logs", "")]
)
def test_time_is_enforced(host, action: str, role: str, age: str) -> None:
    root = host.folder("root", role)
    host.file(root / "name.1", b"line\n" * 10_000)
    actions = tuple(msgspec.structs.replace(a, timeout_s=0) for a in builtin_actions())
    catalogue = Catalogue(actions, declare(host.roles))
    step = msgspec.structs.replace(host.step(action, root, age), definition=catalogue.actions[action].digest)
    with pytest.raises(StepFailed, match="out of time"):
        Executor(catalogue).run(step, host.wall_ns)
    assert os.listdir(root) == ["name.1"]


@pytest.mark.parametrize(
    ("action", "role", "age"), [("clean_cache", "cache", ""), ("purge_old_files", "temp", "1h"), ("compress_logs", "logs", "")]
)
def test_one_run_at_a_time_in_one_folder(host, action: str, role: str, age: str) -> None:
    root = host.folder("root", role)
    host.file(root / "name.1", b"line\n" * 10_000)
    with Tree(str(root), declare(host.roles)) as other:
        other.lock()
        with pytest.raises(StepFailed, match="another run is at work"):
            host.run(action, root, age)
        assert host.measure(action, root, age).files == 1, "an estimate waits for nobody"
    assert host.run(action, root, age).files == 1


def test_a_folder_that_is_gone_fails_the_step(host) -> None:
    cache = host.folder("cache", "cache")
    executor, step = host.executor, host.step("clean_cache", cache)
    cache.rmdir()
    assert executor.measure(step, host.wall_ns) == NOTHING
    with pytest.raises(StepFailed, match="cannot open"):
        executor.run(step, host.wall_ns)


def test_an_error_nobody_foresaw_fails_the_step_in_words(host, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host.folder("cache", "cache")

    def scandir(path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    executor, step = host.executor, host.step("clean_cache", cache)
    monkeypatch.setattr(os, "scandir", scandir)
    assert executor.measure(step, host.wall_ns) == NOTHING
    with pytest.raises(StepFailed, match="clean_cache: input/output error"):
        executor.run(step, host.wall_ns)


def test_files_that_will_not_go_are_told(host, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = host.folder("cache", "cache")
    for name in ("a", "b", "c"):
        host.file(cache / name)
    real = os.rename

    def rename(source, target, **options):
        if source != "b":
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        real(source, target, **options)

    monkeypatch.setattr(os, "rename", rename)
    assert host.run("clean_cache", cache).detail == "removed 1 file; 2 would not go"
    with pytest.raises(StepFailed, match="nothing could be removed: operation not permitted"):
        host.run("clean_cache", cache)
    assert sorted(os.listdir(cache)) == ["a", "c"]
