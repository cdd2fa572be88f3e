"""Which files running processes hold, open or mapped. Removing those frees nothing until they let go."""

import os
from contextlib import suppress


def open_files(device: int) -> frozenset[tuple[int, int]]:
    """(device, inode) of every file on ``device`` that some process holds, as far as this user may see.

    An unprivileged agent does not see other users' processes; what cannot be read is passed over, as is
    a process that ends meanwhile. About 25 us for each open file.
    """
    held: set[tuple[int, int]] = set()
    needle = b" %02x:%02x " % (os.major(device), os.minor(device))
    for process in os.listdir("/proc"):
        if process.isdigit():
            with suppress(OSError):
                _open_by(f"/proc/{process}/fd", device, held)
            with suppress(OSError):
                _mapped_by(f"/proc/{process}/maps", needle, device, held)
    return frozenset(held)


def _open_by(folder: str, device: int, held: set[tuple[int, int]]) -> None:
    for number in os.listdir(folder):
        link = f"{folder}/{number}"
        with suppress(OSError):
            # Sockets, pipes and the like read "kind:[inode]". Only what has a path can be a file of ours.
            if os.readlink(link).startswith("/"):
                status = os.stat(link)
                if status.st_dev == device:
                    held.add((device, status.st_ino))


def _mapped_by(maps: str, needle: bytes, device: int, held: set[tuple[int, int]]) -> None:
    # proc_pid_maps(5): address perms offset major:minor inode path
    with open(maps, "rb") as lines:
        for line in lines:
            if needle in line:
                held.add((device, int(line.split(None, 5)[4])))
