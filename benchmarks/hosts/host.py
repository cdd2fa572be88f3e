"""One host: its own network, mount, PID, UTS and IPC namespace, and a cgroup where cgroup v2 can be used."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.hosts.namespaces import CLONE_NEWNET, CLONE_NEWPID, inside, pids_in
from benchmarks.hosts.output import wait_for

ROOT = Path(__file__).resolve().parents[2]
# The shell is process 1 of the host: it reaps what loses its parent, and when it dies everything in the host dies.
INIT = 'hostname "$0" && ip link set lo up && echo up && { sleep infinity & wait; }'
END_S = 5.0


def python(*arguments: str) -> list[str]:
    """The command for a module of this tree, run by the interpreter that runs us."""
    return [sys.executable, "-m", *arguments]


def environment() -> dict[str, str]:
    """The environment of a host's processes: this tree is what they import, and they may keep compiled files."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Host:
    """Made by ``World``. ``ip`` and ``ip6`` are its addresses, ``folder`` a folder of its own on the machine's disk."""

    def __init__(self, number: int, folder: Path, cgroup: Path | None) -> None:
        self.number = number
        self.name = f"n{number}"
        self.ip = f"10.77.{number // 250}.{number % 250 + 1}"
        self.ip6 = f"fd77::{number:x}"
        self.mac = f"02:77:00:00:{number // 256:02x}:{number % 256:02x}"
        self.port = f"p{number}"
        """The bridge's end of the cable."""
        self.folder = folder
        self.cgroup = cgroup
        self._children: list[subprocess.Popen[bytes]] = []
        folder.mkdir()
        if cgroup is not None:
            cgroup.mkdir()
        spaces = ["--net", "--mount", "--pid", "--ipc", "--uts", "--propagation", "private", "--mount-proc"]
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", *spaces, "--fork", "--kill-child=KILL", "sh", "-c", INIT, self.name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._pid_namespace = self._net_namespace = -1
        self._pid_name = ""

    # -- made by the world ---------------------------------------------------------------------------------------------

    def ready(self) -> None:
        """Wait until the namespaces stand."""
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"up\n":
            raise RuntimeError(f"host {self.name} did not come up")
        self._holder.stdout.close()
        self._pid_namespace = os.open(f"/proc/{self.pid}/ns/pid_for_children", os.O_RDONLY | os.O_CLOEXEC)
        self._net_namespace = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._pid_name = os.readlink(f"/proc/{self.pid}/ns/pid_for_children")

    def end(self) -> None:
        """Everything in the host dies; its folder stays for the world to remove."""
        self._holder.kill()
        self._holder.wait()
        for child in self._children:
            child.wait()
        for descriptor in (self._pid_namespace, self._net_namespace):
            if descriptor >= 0:
                os.close(descriptor)
        if self.cgroup is not None:
            wait_for(lambda: _removed(self.cgroup), END_S)

    # -- processes -----------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """A process of the machine that is in the host's namespaces but the PID one, where it is the parent of process 1."""
        return self._holder.pid

    def spawn(
        self,
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start ``argv`` in the host; ``pid`` is as the machine numbers it."""
        enter = ["nsenter", "--target", str(self.pid), "--net", "--mount", "--uts", "--ipc", "--"]
        variables = environment() | dict(env or {})
        with inside(CLONE_NEWPID, self._pid_namespace, "pid_for_children"):
            child = subprocess.Popen([*enter, *argv], env=variables, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True)
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, child.pid, 0)  # whatever the harness runs at
        if self.cgroup is not None:
            with contextlib.suppress(ProcessLookupError):
                (self.cgroup / "cgroup.procs").write_text(str(child.pid))
        self._children = [c for c in self._children if c.poll() is None] + [child]
        return child

    def run(self, argv: Sequence[str], timeout_s: float = 30.0, data: bytes | None = None) -> "subprocess.CompletedProcess[bytes]":
        """Run ``argv`` in the host and wait."""
        stdin = subprocess.DEVNULL if data is None else subprocess.PIPE
        child = self.spawn(argv, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            out, error = child.communicate(data, timeout_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise
        return subprocess.CompletedProcess(list(argv), child.returncode, out, error)

    def path(self, path: str | Path) -> Path:
        """A path of the host, seen from outside (proc(5), /proc/PID/root)."""
        return Path(f"/proc/{self.pid}/root") / str(path).lstrip("/")

    def connect(self, address: str, port: int, timeout_s: float = 5.0) -> socket.socket:
        """A TCP connection that begins inside the host."""
        with inside(CLONE_NEWNET, self._net_namespace, "net"):
            return socket.create_connection((address, port), timeout_s)

    def processes(self) -> list[int]:
        """Every process in the host but its process 1 and that one's ``sleep``."""
        return [pid for pid in pids_in(self._pid_name) if _parent(pid) not in (self.pid, self._init())]

    def kill_processes(self) -> None:
        """SIGKILL to all of them at once, where a cgroup allows it."""
        if self.cgroup is not None and (self.cgroup / "cgroup.kill").exists():
            (self.cgroup / "cgroup.kill").write_text("1")
        else:
            signal_all(self.processes(), signal.SIGKILL)
        for child in self._children:
            child.wait()

    def cpu_s(self) -> float:
        """CPU seconds that the host's processes have used, by its cgroup; ``nan`` without one."""
        if self.cgroup is None:
            return float("nan")
        lines = (self.cgroup / "cpu.stat").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("usage_usec")) / 1e6

    def _init(self) -> int:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int(children.read_text(encoding="ascii").split()[0])


def signal_all(pids: Iterable[int], number: int) -> None:
    """A signal to each; who is gone is gone."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def end_process(child: "subprocess.Popen[bytes]", grace_s: float = END_S) -> int:
    """SIGTERM, then SIGKILL after ``grace_s``; the exit status."""
    if child.poll() is None:
        child.send_signal(signal.SIGCONT)
        child.terminate()
        try:
            return child.wait(grace_s)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _removed(folder: Path | None) -> bool:
    """A cgroup can be removed once the kernel has let its last process go."""
    try:
        if folder is not None:
            folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        time.sleep(0.02)
        return False
    return True
