"""Entering namespaces (namespaces(7)) for one call or one child, and back."""

import contextlib
import ctypes
import os
from collections.abc import Iterator

CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside(kind: int, namespace: int, own: str) -> Iterator[None]:
    """This thread in ``namespace`` (a descriptor); for ``CLONE_NEWPID`` the children that it starts (setns(2)), not itself."""
    back = os.open(f"/proc/thread-self/ns/{own}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(namespace, kind)
        try:
            yield
        finally:
            _setns(back, kind)
    finally:
        os.close(back)


def _setns(descriptor: int, kind: int) -> None:
    if _libc.setns(descriptor, kind):
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


def threads_of(pid: int) -> list[int]:
    """Thread ids of a process that may have ended."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except FileNotFoundError:
        return []


def pids_in(pid_namespace: str) -> list[int]:
    """Processes, as this machine numbers them, whose PID namespace is ``pid_namespace`` (``pid:[4026532180]``)."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == pid_namespace:
                    found.append(int(name))
    return sorted(found)
