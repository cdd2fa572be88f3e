"""Work that may hang in the kernel (a dead network file system), off the event loop and in nobody's way at the end."""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """Run ``work`` in a thread of its own, for which the end of the process does not wait, unlike ``asyncio.to_thread``.

    The future may be dropped: an error that nobody asks for is nobody's.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    future.add_done_callback(lambda done: done.cancelled() or done.exception())

    def settle(result: T | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, caught = None, None
        try:
            result = work()
        except Exception as error:
            caught = error
        with contextlib.suppress(RuntimeError):  # the loop has ended without us
            loop.call_soon_threadsafe(settle, result, caught)

    threading.Thread(target=run, daemon=True).start()
    return future
