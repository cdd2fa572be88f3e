"""What the worker gives up before it reads a model or a request: priority, memory, network, other programs, orphanhood.

The model file and the incident's texts come from outside; llama.cpp is a large C++ program. Should one of them take it over,
it is alone with its stdin and stdout. Linux only; no privilege is needed.
"""

import ctypes
import os
import platform
import resource
import signal
import struct

NICE = 10

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2
_ALLOW, _EPERM = 0x7FFF0000, 0x00050001
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF, linux/filter.h
# Per machine: audit architecture and the numbers of socket, socketpair, execve, execveat, ptrace, io_uring_setup, process_vm_writev.
_CALLS = {
    "x86_64": (0xC000003E, (41, 53, 59, 322, 101, 425, 311)),
    "aarch64": (0xC00000B7, (198, 199, 221, 281, 117, 425, 271)),
}
_X32_BIT = 0x40000000


def confine(memory_mb: int, parent: int) -> list[str]:
    """Confine this process; ``parent`` is the pid that started it. What could not be had, in words (a kernel without seccomp).

    Raises ``OSError`` for a limit that every kernel has, ``ProcessLookupError`` when the parent has died already.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot ask to die with the parent")
    if os.getppid() != parent:  # it died between the fork and the line above
        raise ProcessLookupError("the parent is gone")
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))
    return [] if _filter_calls(libc) else ["no system call filter on this kernel or machine: the worker could open sockets"]


def close_the_door() -> None:
    """After loading: no new file descriptor of any kind, so no file and no socket, filter or not."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))


def _filter_calls(libc: ctypes.CDLL) -> bool:
    if platform.machine() not in _CALLS:
        return False
    program = _program(*_CALLS[platform.machine()])
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    no_more = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return no_more == 0 and libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0) == 0


def _program(architecture: int, calls: tuple[int, ...]) -> bytes:
    """Deny ``calls`` with EPERM, and everything under another architecture's or x32's numbers; allow the rest."""
    count = len(calls)
    lines = [
        (_LOAD, 0, 0, 4),  # seccomp_data.arch
        (_EQUAL, 0, count + 3, architecture),
        (_LOAD, 0, 0, 0),  # seccomp_data.nr
        (_AT_LEAST, count + 1, 0, _X32_BIT),
        *((_EQUAL, count - i, 0, call) for i, call in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
