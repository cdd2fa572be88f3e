"""Compress rotated logs, so that no line is ever in neither file.

The copy is written in the trash folder, where nobody reads half of it; gets the log's owner, mode, times and attributes;
is synced; gets its name without replacing anything; that name is synced; and only then is the log removed, if
it is still what was read. After a crash both may stand side by side, never none.
"""

import errno
import heapq
import os
import re
import time
import zlib
from dataclasses import dataclass, field

from cloudisense.agent.catalogue import DeclaredPath
from cloudisense.agent.plan import Measured, Step
from cloudisense.host.open_files import open_files
from cloudisense.host.outcome import Outcome, StepFailed, words
from cloudisense.host.trash import Trash, leftovers
from cloudisense.host.tree import Found, Tree, allocated, until

LOGS_MAX = 1_000
"""Logs in one run: those that occupy most."""
SAMPLES_MAX = 64
"""Logs that an estimate reads from (the same, largest first); the others count as nothing."""

_ROTATED = re.compile(r".+\.(?:\d{1,4}|old)", re.DOTALL)
_ADDRESS = re.compile(r"(?:.*[^0-9])?\d{1,3}(?:\.\d{1,3}){3}", re.DOTALL)  # syslog's live log of a host, not a rotation
_CHUNK = 256 * 1024
_LEVEL = 6
_MARGIN = 1.25  # the start of a log may compress better than the rest
_ROUND = 4096
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_ACCESS_LIST = "system.posix_acl_access"
_GZIP = 31  # zlib's window bits for a gzip header: zlib.h, deflateInit2
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CompressLogs:
    """Replace each rotated log that no process holds by ``name.gz``."""

    def measure(self, step: Step, paths: tuple[DeclaredPath, ...], wall_ns: int) -> Measured:
        """At least what ``run`` would free: from the start of each log, with a margin."""
        with Tree(step.value("path"), paths) as tree:
            left_bytes, left_files = leftovers(tree)
            gains = [gain for found in _choose(tree, None)[:SAMPLES_MAX] if (gain := _gain(tree, found)) > 0]
        files = len(gains) + left_files
        return Measured(sum(gains) + left_bytes, left_files, files, f"{_count(len(gains))} to compress" if files else "")

    def run(self, step: Step, paths: tuple[DeclaredPath, ...], wall_ns: int, deadline: float) -> Outcome:
        """Compress until ``deadline`` (``time.monotonic()``); what has not been replaced by then is untouched."""
        with Tree(step.value("path"), paths) as tree:
            tree.lock()
            with Trash(tree) as trash:
                left_bytes, left_files = trash.purge()
                work = _Work(tree, trash, deadline)
                try:
                    waiting = work.one_pass(_choose(tree, deadline))
                    while waiting and work.progressed:  # what found no room may find it now
                        waiting = work.one_pass(waiting)
                except StepFailed as failure:
                    raise StepFailed(failure.reason, work.freed + left_bytes, work.files + left_files) from None
        failures = [*work.failures, *["no room for a compressed copy" for _ in waiting]]
        if failures and not work.files and not left_files:
            raise StepFailed(f"no log could be compressed: {failures[-1]}")
        left = f"; {len(failures)} could not be" if failures else ""
        return Outcome(work.freed + left_bytes, work.files + left_files, f"compressed {_count(work.files)}{left}")


@dataclass(slots=True)
class _Work:
    tree: Tree
    trash: Trash
    deadline: float
    freed: int = 0
    files: int = 0
    failures: list[str] = field(default_factory=list[str])
    progressed: bool = False

    def one_pass(self, logs: list[Found]) -> list[Found]:
        """Compress ``logs``; returns those for which there was no room."""
        waiting: list[Found] = []
        self.progressed = False
        for found in logs:
            try:
                gain = self._compress(found)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno in _FULL:
                    waiting.append(found)
                else:
                    self.failures.append(words(error))
                continue
            if gain:
                self.freed, self.files, self.progressed = self.freed + gain, self.files + 1, True
        return waiting

    def _compress(self, found: Found) -> int:
        """Bytes freed, or 0 if the log is better left as it is. Raises ``OSError``; the log is untouched then."""
        parent = self.tree.enter(found.folder)
        if parent is None:
            return 0
        try:
            source = os.open(found.name, _READ, dir_fd=parent)
            try:
                return self._replace(parent, source, found)
            finally:
                os.close(source)
        finally:
            os.close(parent)

    def _replace(self, parent: int, source: int, found: Found) -> int:
        target = found.name + ".gz"
        if not found.is_still(os.fstat(source)) or _exists(parent, target):
            return 0
        expected = _estimate(source, found)
        if expected >= found.allocated:
            return 0
        room = _room(self.tree.fd)
        if expected > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy, staged = self.trash.stage()
        try:
            if not self._write(source, copy, found, room):
                return 0
            _dress(source, copy)
            os.fsync(copy)
            status = os.fstat(copy)
            if allocated(status) >= found.allocated:
                return 0
            self.trash.publish(staged, parent, target)
        finally:
            os.close(copy)
            self.trash.drop(staged)
        os.fsync(parent)  # the copy's name must be durable before the log goes
        try:
            removed = self.trash.remove_from(parent, found)
        except FileNotFoundError:
            removed = False
        if removed:
            return found.allocated - allocated(status)
        # The log was rotated on or written to while we read it, so it is the copy that goes. After any other error both
        # stay: we cannot tell then how far it came, and twice is better than never.
        self.trash.remove_from(parent, Found.of(found.folder, target, status))
        return 0

    def _write(self, source: int, copy: int, found: Found, room: int) -> bool:
        """Compress ``source`` into ``copy``; ``False`` if nothing is gained by it. Raises ``OSError``, ``StepFailed``."""
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        read = written = 0
        while chunk := os.read(source, _CHUNK):
            if time.monotonic() >= self.deadline:
                raise StepFailed(f"out of time after {_count(self.files)}")
            read += len(chunk)
            written += _write_all(copy, packer.compress(chunk))
            if read > found.size or written >= found.allocated:
                return False
            if written > room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        _write_all(copy, packer.flush())
        return read == found.size


def _choose(tree: Tree, deadline: float | None) -> list[Found]:
    files = tree.files() if deadline is None else until(deadline, tree.files())
    logs = heapq.nsmallest(LOGS_MAX, filter(_is_rotated, files), key=lambda found: (-found.allocated, found.folder, found.name))
    held = open_files(tree.device) if logs else frozenset[tuple[int, int]]()
    return [found for found in logs if found.identity not in held]


def _is_rotated(found: Found) -> bool:
    return found.allocated > _ROUND and _ROTATED.fullmatch(found.name) is not None and _ADDRESS.fullmatch(found.name) is None


def _gain(tree: Tree, found: Found) -> int:
    """Bytes that compressing ``found`` should free at least; 0 if it cannot be done."""
    parent = tree.enter(found.folder)
    if parent is None:
        return 0
    try:
        source = os.open(found.name, _READ, dir_fd=parent)
        try:
            if not found.is_still(os.fstat(source)) or _exists(parent, found.name + ".gz"):
                return 0
            expected = _estimate(source, found)
        finally:
            os.close(source)
    except OSError:
        return 0
    finally:
        os.close(parent)
    return found.allocated - expected if expected <= _room(tree.fd) else 0


def _estimate(source: int, found: Found) -> int:
    """Bytes that the copy should occupy at most, judged by the log's start."""
    sample = os.pread(source, _CHUNK, 0)
    ratio = len(zlib.compress(sample, _LEVEL)) / max(len(sample), 1)
    return -int(-found.size * ratio * _MARGIN // _ROUND) * _ROUND


def _room(fd: int) -> int:
    """Half of what is free: a fix for a full disk must not fill it, not even for a moment."""
    status = os.fstatvfs(fd)
    return status.f_bavail * status.f_frsize // 2


def _dress(source: int, copy: int) -> None:
    """Give ``copy`` the owner, mode, attributes and times of ``source``. Raises ``OSError`` if it would be more open than that."""
    status = os.fstat(source)
    os.fchown(copy, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        try:
            os.setxattr(copy, name, os.getxattr(source, name))
        except OSError:
            if name == _ACCESS_LIST:
                raise
    os.fchmod(copy, status.st_mode & 0o777)
    os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))


def _exists(parent: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write_all(fd: int, data: bytes) -> int:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return len(data)


def _count(logs: int) -> str:
    return "1 rotated log" if logs == 1 else f"{logs} rotated logs"
