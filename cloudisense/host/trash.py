"""Take files out of a declared folder in two moves, so that the file removed is the file that was chosen.

unlink(2) takes a name, and a name can point to another file by the time it is used. So a file is first renamed
into a folder that only we can enter, looked at again there, and only then unlinked. If it is another file, or if its
folder has been moved out of the declared one meanwhile, it goes back to where it was.

A name in the trash says which file it must be (inode, time of change). So what a crash left behind is purged by the
next run only if it is what was meant to go; anything else stays there, for a person to look at.
"""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

from cloudisense.host.outcome import StepFailed, words
from cloudisense.host.tree import TRASH, Found, Tree, allocated

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
_STAGED = "staged"
_LEFT_MAX = 100_000


class Trash:
    """The trash of one locked tree. It exists only while it holds something."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._fd = -1
        self.refusals: dict[str, int] = {}
        """Why files were left alone that we would have removed, with counts."""

    def __enter__(self) -> "Trash":
        self._fd = _open_trash(self._tree)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            with suppress(OSError):  # not empty: it keeps something that is not ours
                os.rmdir(TRASH, dir_fd=self._tree.fd)

    def purge(self) -> tuple[int, int]:
        """Remove what an earlier run left behind. Returns (bytes, files)."""
        freed = files = 0
        for name, size in _leftovers(self._fd):
            with suppress(OSError):
                os.unlink(name, dir_fd=self._fd)
                freed, files = freed + size, files + 1
        return freed, files

    def remove(self, found: Found) -> bool:
        """Remove one file for good; ``False`` if it is gone, has changed, or will not go."""
        parent = self._tree.enter(found.folder)
        if parent is None:
            return False
        try:
            return self.remove_from(parent, found)
        except FileNotFoundError:
            return False
        except OSError as error:
            reason = words(error)
            self.refusals[reason] = self.refusals.get(reason, 0) + 1
            return False
        finally:
            os.close(parent)

    def remove_from(self, parent: int, found: Found) -> bool:
        """``remove``, where the file's folder is open already. Raises ``OSError``."""
        if not found.is_still(os.stat(found.name, dir_fd=parent, follow_symlinks=False)):
            return False
        name = f"{_label(found.inode, found.mtime_ns)}-{secrets.token_hex(8)}"
        try:
            self._ensure()
            os.rename(found.name, name, src_dir_fd=parent, dst_dir_fd=self._fd)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            # Not even a folder entry fits. The first files have to go without the second look, or nothing ever would;
            # what remains is the instant since the look above, and only a name in this same folder.
            os.unlink(found.name, dir_fd=parent)
            return True
        if found.is_still(os.stat(name, dir_fd=self._fd, follow_symlinks=False)) and self._tree.still_here(parent, found.folder):
            os.unlink(name, dir_fd=self._fd)
            return True
        move_new(self._fd, name, parent, found.name)
        return False

    def stage(self) -> tuple[int, str]:
        """A new empty file in the trash, open for writing, and its name there. Raises ``OSError``."""
        self._ensure()
        name = f"{_STAGED}-{secrets.token_hex(8)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, 0o600, dir_fd=self._fd), name

    def publish(self, staged: str, parent: int, name: str) -> None:
        """Move a staged file to ``name`` in ``parent``. Raises ``OSError``, ``FileExistsError`` if the name is taken."""
        move_new(self._fd, staged, parent, name)

    def drop(self, staged: str) -> None:
        """Remove a staged file, if it is still there."""
        with suppress(FileNotFoundError):
            os.unlink(staged, dir_fd=self._fd)

    def _ensure(self) -> None:
        if self._fd < 0:
            with suppress(FileExistsError):
                os.mkdir(TRASH, 0o700, dir_fd=self._tree.fd)
            self._fd = _open_trash(self._tree)
            if self._fd < 0:
                raise StepFailed(f"the trash folder in {self._tree.path} vanished")


def leftovers(tree: Tree) -> tuple[int, int]:
    """(bytes, files) that a run would purge from the trash before anything else. Raises ``StepFailed``."""
    fd = _open_trash(tree)
    try:
        sizes = [size for _, size in _leftovers(fd)]
    finally:
        if fd >= 0:
            os.close(fd)
    return sum(sizes), len(sizes)


def move_new(source_fd: int, source: str, target_fd: int, target: str) -> None:
    """Rename without replacing anything. Raises ``OSError``, ``FileExistsError`` if ``target`` is there.

    renameat2(2)'s RENAME_NOREPLACE is not in ``os``; a second link and then an unlink gives the same promise. Folders, and
    file systems without links, get a plain rename after a look: a folder never replaces a file or a full folder.
    """
    if not stat.S_ISDIR(os.stat(source, dir_fd=source_fd, follow_symlinks=False).st_mode):
        try:
            os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            os.unlink(source, dir_fd=source_fd)
            return
    try:
        os.stat(target, dir_fd=target_fd, follow_symlinks=False)
    except FileNotFoundError:
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _open_trash(tree: Tree) -> int:
    """The trash's descriptor, or -1 if there is none. Raises ``StepFailed`` if what stands there is not our folder."""
    try:
        fd = os.open(TRASH, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=tree.fd)
    except FileNotFoundError:
        return -1
    except OSError:
        raise StepFailed(f"{TRASH} in {tree.path} is not a folder of ours") from None
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077 or not tree.holds(fd):
        os.close(fd)
        raise StepFailed(f"{TRASH} in {tree.path} is not a folder of ours")
    return fd


def _leftovers(fd: int) -> Iterator[tuple[str, int]]:
    """Name and size of what may be purged. Closing the iterator early is fine."""
    if fd < 0:
        return
    with os.scandir(fd) as entries:
        names = [entry.name for entry, _ in zip(entries, range(_LEFT_MAX), strict=False)]
    for name in names:
        with suppress(OSError):
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if _is_ours(name, status):
                yield name, allocated(status) if status.st_nlink == 1 else 0


def _is_ours(name: str, status: os.stat_result) -> bool:
    label = name.rpartition("-")[0]
    return stat.S_ISREG(status.st_mode) and label in (_STAGED, _label(status.st_ino, status.st_mtime_ns))


def _label(inode: int, mtime_ns: int) -> str:
    return f"{inode:x}-{mtime_ns & 0xFFFF_FFFF_FFFF_FFFF:x}"  # a time before 1970 is negative
