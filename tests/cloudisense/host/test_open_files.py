import os
import shutil
import subprocess
import sys
from pathlib import Path

from cloudisense.host.open_files import open_files


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def test_open_files_are_seen_and_others_are_not(tmp_path: Path) -> None:
    opened, closed = tmp_path / "opened", tmp_path / "closed"
    for path in (opened, closed):
        path.write_bytes(b"x" * 4096)
    device = tmp_path.stat().st_dev
    with opened.open("rb"):
        held = open_files(device)
        assert identity(opened) in held
        assert identity(closed) not in held
        assert open_files(device + 1) == frozenset()
    assert identity(opened) not in open_files(device)


def test_a_mapping_holds_a_file_without_a_descriptor(tmp_path: Path) -> None:
    program = tmp_path / "sleep"
    shutil.copy(str(shutil.which("sleep")), program)
    with subprocess.Popen([program, "60"]) as child:
        try:
            assert not [fd for fd in Path(f"/proc/{child.pid}/fd").iterdir() if os.readlink(fd) == str(program)]
            assert identity(program) in open_files(tmp_path.stat().st_dev)
        finally:
            child.kill()
    assert identity(program) not in open_files(tmp_path.stat().st_dev)


def test_other_processes_count(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    path.write_bytes(b"x")
    script = "import sys; f = open(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        assert identity(path) in open_files(os.stat(tmp_path).st_dev)
        child.communicate()
    assert identity(path) not in open_files(os.stat(tmp_path).st_dev)
