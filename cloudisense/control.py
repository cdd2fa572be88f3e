"""How a command talks to the running agent of a state folder: one JSON line each way, over a Unix socket in that folder.

Only who may enter the folder can reach it. What is durable, commands read from the store; this is for what only lives.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

LINE_BYTES = 64 * 1024
TIMEOUT_S = 5.0

Handler = Callable[[str], Awaitable[dict[str, Any]]]


class ControlServer:
    """Answers commands; ``handler`` gets the line: the command's word, and after a space what belongs to it."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None
        self._clients: dict[asyncio.StreamWriter, asyncio.Task[None] | None] = {}

    async def start(self) -> None:
        """Listen. The folder's lock is ours, so a socket that lies there is a dead agent's."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        with _short(self._path) as path:
            self._server = await asyncio.start_unix_server(self._serve, path, limit=LINE_BYTES)
        self._path.chmod(0o600)

    async def close(self) -> None:
        """Stop, and take the socket away."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
            tasks = [task for task in self._clients.values() if task is not None]
            for writer in self._clients:
                writer.transport.abort()  # not a cancellation of its task: asyncio's streams would complain of that
            if tasks:
                await asyncio.wait(tasks, timeout=TIMEOUT_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients[writer] = asyncio.current_task()
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                line = await reader.readline()
                if line.endswith(b"\n"):  # half a word is no command
                    writer.write(json.dumps(await self._handler(line.decode("utf-8", "replace").strip())).encode() + b"\n")
                    await writer.drain()
        del self._clients[writer]
        writer.close()


async def ask(path: Path, line: str) -> dict[str, Any] | None:
    """The running agent's answer to one line, or ``None`` when no agent runs there."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            with _short(path) as short:
                reader, writer = await asyncio.open_unix_connection(short, limit=LINE_BYTES)
            try:
                writer.write(line.encode() + b"\n")
                answer = await reader.readline()
                return json.loads(answer) if answer else None
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError):
        return None


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name for ``path`` within the 108 bytes of ``sun_path`` (unix(7)), however deep the folder."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
