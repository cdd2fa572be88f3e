"""Group commit: what is queued while one transaction syncs goes into the next one, in order, off the event loop."""

import asyncio
import contextlib
import errno
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cloudisense.keys.errors import LocalProtocolError
from cloudisense.mesh.effects import Persist
from cloudisense.store import Store, check_row

MAX_WAITING = 20_000
"""Effects that may wait for the disk; the shell must stop, not lose, when there are more."""
MAX_GROUP = 1_000
RETRY_S = 1.0


class Writer:
    """Carries out ``Persist`` effects of one event loop.

    ``on_persisted(token)`` is called on the loop, in the order of ``put``, once the rows are synced.
    ``on_error(error, waiting)`` is called for every attempt that failed; nothing is dropped or overtaken: the same
    rows are tried again every ``retry_s`` seconds, because a token whose rows are not on disk must never be reported, and
    neither must a later one.
    """

    def __init__(
        self, store: Store, on_persisted: Callable[[int], None], on_error: Callable[[Exception, int], None], retry_s: float = RETRY_S
    ) -> None:
        self._store = store
        self._on_persisted, self._on_error = on_persisted, on_error
        self._retry_s = retry_s
        self._queue: deque[Persist] = deque()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._pump: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Effects that are not on disk yet."""
        return len(self._queue)

    def put(self, effect: Persist) -> None:
        """Queue ``effect``. Raises ``OSError(ENOBUFS)`` when the disk has not kept up for too long.

        Rows that do not fit the tables raise ``LocalProtocolError`` here, where their author is on the stack.
        """
        if self._closing.is_set():
            raise LocalProtocolError("the store writer is closed")
        for row in effect.rows:
            check_row(row)
        if len(self._queue) >= MAX_WAITING:
            raise OSError(errno.ENOBUFS, f"the state database has not taken {MAX_WAITING} changes in a row")
        self._queue.append(effect)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.get_running_loop().create_task(self._run(), name="store writer")

    async def close(self) -> int:
        """Write what is queued, without waiting for a disk that refuses; the number of effects that were lost."""
        self._closing.set()
        if self._pump is not None:
            await self._pump
        self._worker.shutdown()
        await asyncio.sleep(0)  # the last tokens were handed to the loop; let them arrive before we say that we are done
        return len(self._queue)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            group = [self._queue[i] for i in range(min(len(self._queue), MAX_GROUP))]
            rows = [row for effect in group for row in effect.rows]
            try:
                if rows:
                    await loop.run_in_executor(self._worker, self._store.write, rows)
            except Exception as error:  # whatever it is, the daemon hears it and the rows stay queued
                self._on_error(error, len(self._queue))
                if self._closing.is_set():
                    return
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._retry_s)
                continue
            for effect in group:
                self._queue.popleft()
                loop.call_soon(self._on_persisted, effect.token)
