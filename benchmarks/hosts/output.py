"""What processes print, line by line, stamped when it is read: one thread for all of them."""

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

CHUNK = 1 << 16
LINE_BYTES = 1 << 20
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its end, and when it was read (CLOCK_MONOTONIC, nanoseconds)."""

    at_ns: int
    text: bytes


Sink = Callable[[Line], None]


class Output:
    """Reads descriptors until they end. A sink is called on the reader's thread and has to be quick."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._new: list[tuple[int, Sink]] = []
        self._open: dict[int, tuple[Sink, bytearray]] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()

    def read(self, descriptor: int, sink: Sink) -> None:
        """Give every line of ``descriptor`` to ``sink``; the descriptor is ours from now on."""
        self._new.append((descriptor, sink))
        os.write(self._wake_write, b"+")

    def take(self, pipe: IO[bytes], sink: Sink) -> None:
        """``read``, for a pipe of ``subprocess``; that object is closed."""
        self.read(os.dup(pipe.fileno()), sink)
        pipe.close()

    def close(self) -> None:
        """Stop reading and close what is open."""
        self._closing = True
        os.write(self._wake_write, b"-")
        self._thread.join()
        for descriptor in [*self._open, self._wake_read, self._wake_write]:
            os.close(descriptor)
        self._selector.close()

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fd == self._wake_read:
                    self._woken()
                else:
                    self._chunk(key.fd)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, CHUNK)
        while self._new:
            descriptor, sink = self._new.pop()
            os.set_blocking(descriptor, False)
            self._open[descriptor] = (sink, bytearray())
            self._selector.register(descriptor, selectors.EVENT_READ)

    def _chunk(self, descriptor: int) -> None:
        sink, rest = self._open[descriptor]
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        at_ns = time.monotonic_ns()
        if not data or len(rest) > LINE_BYTES:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            del self._open[descriptor]
            return
        rest += data
        *lines, last = rest.split(b"\n")
        rest[:] = last
        for line in lines:
            sink(Line(at_ns, bytes(line)))


def wait_for(holds: Callable[[], bool], seconds: float, poll_s: float = POLL_S) -> bool:
    """Wait until ``holds``; false when it did not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
