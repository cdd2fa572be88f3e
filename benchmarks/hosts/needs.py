"""What this machine must have for hosts of namespaces, and what is missing here."""

import os
import shutil
import subprocess
from pathlib import Path

PACKAGES = {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "serf": "serf"}
"""Program -> Debian package."""
PROGRAMS = ("ip", "nft", "unshare", "nsenter", "setpriv")


def missing(*more: str) -> str | None:
    """One line that says what to do before hosts can be made here (with programs ``more``), or ``None``."""
    if os.geteuid() != 0:
        return "hosts are made of namespaces: this needs root"
    absent = [program for program in (*PROGRAMS, *more) if shutil.which(program) is None]
    if absent:
        return f"missing: {', '.join(absent)}; apt-get install {' '.join(sorted({PACKAGES[program] for program in absent}))}"
    # One try of everything that a container or a small kernel may refuse.
    rules = "add table bridge t; add chain bridge t c { type filter hook forward priority 0; }"
    words = f"ip link add name tb type bridge && ip link add name ta type veth peer name tc && nft '{rules}'"
    made = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--fork", "sh", "-c", words], capture_output=True, text=True, check=False
    )
    if made.returncode:
        return f"this kernel or container allows no network of namespaces: {' '.join(made.stderr.split())[:200]}"
    return None


def cgroup_root() -> Path | None:
    """Where cgroup v2 is mounted and may be written to, or ``None``: then hosts have no cgroup."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, where, kind, options = line.split()[:4]
        if kind == "cgroup2" and "rw" in options.split(",") and os.access(where, os.W_OK):
            return Path(where)
    return None
