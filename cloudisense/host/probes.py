"""Read the host's file systems."""

import os

from cloudisense.agent.events import FileSystem


def read_file_system(path: str) -> FileSystem:
    """The file system that holds ``path``, in bytes and inodes. Raises ``OSError``.

    ``used`` is all that an ordinary user cannot have, the blocks reserved for root included: services fail when
    *they* find no room. A file system that does not count inodes (btrfs, vfat) reads 0 of 0.
    """
    raw = os.statvfs(path)
    unit = raw.f_frsize or raw.f_bsize
    size = raw.f_blocks
    available = min(max(raw.f_bavail, 0), size)
    inodes = raw.f_files
    inodes_available = min(max(raw.f_favail, 0), inodes)
    return FileSystem(size=size * unit, used=(size - available) * unit, inodes=inodes, inodes_used=inodes - inodes_available)


def mount_point(path: str) -> str:
    """The topmost folder above the real ``path`` on the same device. Raises ``OSError``.

    A bind mount within one file system is not told apart: what fills up is the file system.
    """
    path = os.path.realpath(path, strict=True)
    device = os.stat(path).st_dev
    while True:
        parent = os.path.dirname(path)
        if parent == path or os.stat(parent).st_dev != device:
            return path
        path = parent
