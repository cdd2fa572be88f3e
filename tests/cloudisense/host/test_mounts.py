"""Real mounts, in a mount namespace of a child process: other file systems, bind mounts, and disks that are truly full."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
UNSHARE = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]

PRELUDE = """
import errno, json, os, subprocess, sys, time
from cloudisense.agent.catalogue import Catalogue
from cloudisense.agent.plan import Step
from cloudisense.host.catalogue import builtin_actions, declare
from cloudisense.host.executor import Executor, StepFailed
from cloudisense.host.probes import mount_point, read_file_system

os.chdir(sys.argv[1])

def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)

def fill(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError:
                return

def act(action, path, role, *more):
    path = os.path.abspath(path)
    actions = builtin_actions()
    executor = Executor(Catalogue(actions, declare([(path, role), *more])))
    step = Step(action, next(a for a in actions if a.id == action).digest, (("path", path),))
    measured = executor.measure(step, time.time_ns())
    try:
        outcome = executor.run(step, time.time_ns())
    except StepFailed as failure:
        return measured.frees_bytes, measured.files, failure.reason, 0
    return measured.frees_bytes, measured.files, outcome.freed_bytes, outcome.files
"""


WITHOUT_PROC = "import cloudisense.host.tree\ncloudisense.host.tree._mount_id = lambda fd: -1\n"


def in_namespace(tmp_path: Path, script: str, before: str = "") -> dict:
    command = [*UNSHARE, sys.executable, "-c", PRELUDE + before + textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_mount(), reason="mounting is not allowed here, not even in a namespace")


@pytest.mark.parametrize("proc", [True, False], ids=["", "without-proc"])
def test_other_file_systems_and_bind_mounts_inside_stay(tmp_path: Path, proc: bool) -> None:
    result = in_namespace(
        tmp_path,
        """
        for folder in ("cache/tmpfs", "cache/bound", "precious"):
            os.makedirs(folder)
        open("precious/canary", "w").write("x")
        open("cache/goes", "w").write("x")
        mount("-t", "tmpfs", "none", "cache/tmpfs")
        open("cache/tmpfs/canary", "w").write("x")
        mount("--bind", "precious", "cache/bound")
        same_device = os.stat("cache/bound").st_dev == os.stat("cache").st_dev
        done = act("clean_cache", "cache", "cache")
        print(json.dumps({
            "same_device": same_device, "done": done, "left": sorted(os.listdir("cache")), "bound": os.listdir("precious"),
            "tmpfs": os.listdir("cache/tmpfs"), "mount": mount_point("cache/tmpfs") == os.path.abspath("cache/tmpfs"),
        }))
        """,
        before="" if proc else WITHOUT_PROC,
    )
    assert result["same_device"], "the device number alone would not have told"
    assert result["done"][1] == (1 if proc else 2), "without /proc the estimate cannot tell, and the move (EXDEV) does"
    assert result["done"][3] == 1
    assert result["left"] == ["bound", "tmpfs"]
    assert result["bound"] == result["tmpfs"] == ["canary"]
    assert result["mount"]


def test_one_folder_under_two_roles_by_a_bind_mount(tmp_path: Path) -> None:
    result = in_namespace(
        tmp_path,
        """
        os.makedirs("data"), os.makedirs("cache")
        open("data/canary", "w").write("x")
        paths = [(os.path.abspath("data"), "data"), (os.path.abspath("cache"), "cache")]
        declared = declare(paths)
        mount("--bind", "data", "cache")
        try:
            declare(paths)
            said = ""
        except ValueError as error:
            said = str(error)
        actions = builtin_actions()
        step = Step("clean_cache", next(a for a in actions if a.id == "clean_cache").digest, (("path", paths[1][0]),))
        try:
            Executor(Catalogue(actions, declared)).run(step, time.time_ns())
            ran = "yes"
        except StepFailed as failure:
            ran = failure.reason
        print(json.dumps({"said": said, "ran": ran, "left": os.listdir("data")}))
        """,
    )
    assert "are the same folder" in result["said"]
    assert "also declared under another name" in result["ran"]
    assert result["left"] == ["canary"]


def test_a_disk_without_a_free_inode_is_cleaned(tmp_path: Path) -> None:
    result = in_namespace(
        tmp_path,
        """
        os.makedirs("disk")
        mount("-t", "tmpfs", "-o", "size=4m,nr_inodes=50", "none", "disk")
        for number in range(100):
            try:
                open(f"disk/{number}", "w").write("x")
            except OSError:
                break
        before = read_file_system("disk")
        done = act("clean_cache", "disk", "cache")
        after = read_file_system("disk")
        print(json.dumps({
            "free_before": before.inodes - before.inodes_used, "done": done,
            "given_back": before.inodes_used - after.inodes_used, "bytes": before.used - after.used,
        }))
        """,
    )
    assert result["free_before"] == 0
    assert result["done"][1] == result["done"][3] == result["given_back"]
    assert result["done"][0] == result["done"][2] == result["bytes"], "what was promised is what statvfs sees"


def test_a_disk_without_a_free_block_is_cleaned(tmp_path: Path) -> None:
    result = in_namespace(
        tmp_path,
        """
        os.makedirs("disk")
        mount("-t", "tmpfs", "-o", "size=2m", "none", "disk")
        os.makedirs("disk/a")
        fill("disk/a/big")
        before = read_file_system("disk")
        done = act("clean_cache", "disk", "cache")
        after = read_file_system("disk")
        print(json.dumps({"free": before.size - before.used, "done": done, "bytes": before.used - after.used, "left": os.listdir("disk")}))
        """,
    )
    assert result["free"] == 0
    assert result["done"][0] == result["done"][2] == result["bytes"] > 1_900_000
    assert result["left"] == ["a"]


def test_logs_on_a_full_disk_stay_whole(tmp_path: Path) -> None:
    result = in_namespace(
        tmp_path,
        """
        os.makedirs("disk")
        mount("-t", "tmpfs", "-o", "size=2m", "none", "disk")
        lines = b"".join(b"request %d served\\n" % n for n in range(50_000))
        open("disk/app.1", "wb").write(lines)
        fill("disk/ballast")
        full = act("compress_logs", "disk", "logs")
        whole = open("disk/app.1", "rb").read() == lines
        left = sorted(os.listdir("disk"))
        os.unlink("disk/ballast")
        before = read_file_system("disk")
        later = act("compress_logs", "disk", "logs")
        print(json.dumps({"full": full, "whole": whole, "left": left, "later": later, "bytes": before.used - read_file_system("disk").used,
            "end": os.listdir("disk")}))
        """,
    )
    assert result["full"] == [0, 0, "no log could be compressed: no room for a compressed copy", 0]
    assert result["whole"]
    assert result["left"] == ["app.1", "ballast"]
    assert result["later"][2] == result["bytes"] > 500_000
    assert result["later"][0] <= result["later"][2]
    assert result["end"] == ["app.1.gz"]


def test_a_read_only_disk_fails_cleanly(tmp_path: Path) -> None:
    result = in_namespace(
        tmp_path,
        """
        os.makedirs("disk")
        mount("-t", "tmpfs", "-o", "size=2m", "none", "disk")
        open("disk/file", "w").write("x")
        mount("-o", "remount,bind,ro", "disk")
        print(json.dumps({"done": act("clean_cache", "disk", "cache"), "left": os.listdir("disk")}))
        """,
    )
    assert result["done"] == [0, 0, 0, 0], "an estimate of nothing: no plan is made of it"
    assert result["left"] == ["file"]
