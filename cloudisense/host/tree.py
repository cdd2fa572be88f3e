"""Walk one declared folder so that nothing outside it can ever be reached.

The rules, which hold against a user who changes the folder while we walk it:

1. A folder is entered by descriptor only, one name at a time, with O_NOFOLLOW. No path is resolved twice.
2. A folder below the root is entered only on the root's device *and* mount: a bind mount shows another tree
   under the same device number.
3. A folder that has its own declaration is never entered, known by its name and by its inode, so that
   moving it does not expose it. A declared ``data`` folder that is not there stops the action.
4. Only regular files with one link, which this user may remove, are ever shown to an action.
5. An old descriptor proves nothing about where its folder is now: ``still_here`` walks down again.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from cloudisense.agent.catalogue import DeclaredPath
from cloudisense.host.outcome import StepFailed, words

DEPTH_MAX = 64
SEEN_MAX = 2_000_000
"""Names read in one walk; what lies behind them waits for the next run."""

TRASH = ".cloudisense-trash"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASSAGE = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = 512  # unit of st_blocks, whatever the file system's own block is: stat(2)


@dataclass(frozen=True, slots=True)
class Found:
    """One regular file as the walk saw it. ``allocated`` is what its removal gives back, in bytes."""

    folder: tuple[str, ...]
    name: str
    device: int
    inode: int
    mtime_ns: int
    size: int
    allocated: int

    @classmethod
    def of(cls, folder: tuple[str, ...], name: str, status: os.stat_result) -> "Found":
        return cls(folder, name, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, allocated(status))

    @property
    def identity(self) -> tuple[int, int]:
        return self.device, self.inode

    def is_still(self, now: os.stat_result) -> bool:
        """Whether ``now`` is this very file, regular, unchanged and with no second name."""
        return (
            (now.st_dev, now.st_ino, now.st_mtime_ns, now.st_size) == (self.device, self.inode, self.mtime_ns, self.size)
            and stat.S_ISREG(now.st_mode)
            and now.st_nlink == 1
        )


def allocated(status: os.stat_result) -> int:
    """Bytes that a file occupies. Blocks shared by reflinks count in full: stat cannot tell."""
    return status.st_blocks * _BLOCK


class Tree:
    """One declared folder, held open. Raises ``StepFailed`` on entering if it is not what was declared."""

    def __init__(self, path: str, paths: tuple[DeclaredPath, ...]) -> None:
        self.path = path
        self._root_parts = _parts(path)
        self._others = tuple(p for p in paths if p.path != path)
        self._inner = frozenset(
            _parts(p.path)[len(self._root_parts) :] for p in self._others if _parts(p.path)[: len(self._root_parts)] == self._root_parts
        )
        self._protected: frozenset[tuple[int, int]] = frozenset()
        self._seen = 0
        self._uid = os.geteuid()
        self.fd = -1
        self.device = 0
        self._mount = -1

    def __enter__(self) -> "Tree":
        try:
            self.fd = _open_from_top(self._root_parts)
        except OSError as error:
            raise StepFailed(f"cannot open {self.path}: {words(error)}") from None
        try:
            root = os.fstat(self.fd)
            self.device = root.st_dev
            self._mount = _mount_id(self.fd)
            self._protected = self._identify_others()
            if (root.st_dev, root.st_ino) in self._protected:
                raise StepFailed(f"{self.path} is also declared under another name")
        except BaseException:
            os.close(self.fd)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self.fd)

    def lock(self) -> None:
        """Keep other runs out of this folder until the tree is closed. Raises ``StepFailed`` if one is at work."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepFailed(f"{self.path} is locked: another run is at work there") from None

    def files(self) -> Generator[Found, None, None]:
        """Every file that an action may consider, in the folder's own order."""
        self._seen = 0
        root = os.open(".", _FOLDER, dir_fd=self.fd)  # not dup: that would share the reading position
        try:
            yield from self._walk(root, ())
        finally:
            os.close(root)

    def enter(self, folder: tuple[str, ...]) -> int | None:
        """A new descriptor of ``folder`` below the root, or ``None`` if it is gone or out of bounds."""
        fd = os.dup(self.fd)
        for depth, name in enumerate(folder):
            try:
                child = self._enter(fd, folder[:depth], name)
            finally:
                os.close(fd)
            if child is None:
                return None
            fd = child
        return fd

    def still_here(self, fd: int, folder: tuple[str, ...]) -> bool:
        """Whether the open ``fd`` is still what ``folder`` below the root leads to."""
        fresh = self.enter(folder)
        if fresh is None:
            return False
        try:
            return os.path.samestat(os.fstat(fresh), os.fstat(fd))
        finally:
            os.close(fresh)

    def holds(self, fd: int) -> bool:
        """Whether the open folder ``fd`` is on the root's file system and mount, and not declared itself."""
        status = os.fstat(fd)
        return status.st_dev == self.device and (status.st_dev, status.st_ino) not in self._protected and _mount_id(fd) == self._mount

    def _identify_others(self) -> frozenset[tuple[int, int]]:
        found: set[tuple[int, int]] = set()
        for other in self._others:
            try:
                fd = _open_from_top(_parts(other.path), _PASSAGE)
            except OSError as error:
                if other.role == "data" and _parts(other.path)[: len(self._root_parts)] == self._root_parts:
                    raise StepFailed(f"the data folder {other.path} inside {self.path} cannot be found: {words(error)}") from None
                continue
            try:
                status = os.fstat(fd)
            finally:
                os.close(fd)
            found.add((status.st_dev, status.st_ino))
        return frozenset(found)

    def _walk(self, fd: int, folder: tuple[str, ...]) -> Iterator[Found]:
        here = os.fstat(fd)
        writable = os.access(".", os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True)
        with os.scandir(fd) as entries:
            for entry in entries:
                self._seen += 1
                if self._seen > SEEN_MAX:
                    return
                with suppress(OSError):  # gone meanwhile, or not ours to read
                    if entry.is_dir(follow_symlinks=False):
                        yield from self._walk_into(fd, folder, entry.name)
                    elif writable and entry.is_file(follow_symlinks=False):
                        found = self._consider(folder, entry.name, entry.stat(follow_symlinks=False), here)
                        if found is not None:
                            yield found

    def _walk_into(self, fd: int, folder: tuple[str, ...], name: str) -> Iterator[Found]:
        if len(folder) >= DEPTH_MAX:
            return
        child = self._enter(fd, folder, name)
        if child is None:
            return
        try:
            yield from self._walk(child, (*folder, name))
        finally:
            os.close(child)

    def _consider(self, folder: tuple[str, ...], name: str, status: os.stat_result, here: os.stat_result) -> Found | None:
        if not stat.S_ISREG(status.st_mode) or status.st_dev != self.device or status.st_nlink != 1:
            return None
        if here.st_mode & stat.S_ISVTX and self._uid not in (0, status.st_uid, here.st_uid):
            return None  # sticky folder: only the owners may remove, unlink(2)
        return Found.of(folder, name, status)

    def _enter(self, fd: int, folder: tuple[str, ...], name: str) -> int | None:
        if (*folder, name) in self._inner or (not folder and name == TRASH):
            return None
        try:
            child = os.open(name, _FOLDER, dir_fd=fd)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise StepFailed(f"cannot walk {self.path}: {words(error)}") from None
            return None
        if self.holds(child):
            return child
        os.close(child)
        return None


def until(deadline: float, files: Iterable[Found]) -> Iterator[Found]:
    """Pass ``files`` on; raise ``StepFailed`` when ``time.monotonic()`` has reached ``deadline``."""
    for found in files:
        if time.monotonic() >= deadline:
            raise StepFailed("out of time")
        yield found


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split("/") if part)


def _open_from_top(parts: tuple[str, ...], last: int = _FOLDER) -> int:
    """Open an absolute path without following a symbolic link anywhere in it. Raises ``OSError``."""
    fd = os.open("/", _PASSAGE)
    for depth, part in enumerate(parts, start=1):
        try:
            child = os.open(part, last if depth == len(parts) else _PASSAGE, dir_fd=fd)
        finally:
            os.close(fd)
        fd = child
    return fd


def _mount_id(fd: int) -> int:
    """The mount that ``fd`` was reached through (proc_pid_fdinfo(5)); -1 without /proc, where rename's EXDEV remains."""
    try:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as lines:
            for line in lines:
                if line.startswith(b"mnt_id:"):
                    return int(line[7:])
    except OSError:
        pass
    return -1
