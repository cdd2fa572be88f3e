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

Handler = Callable[[str, str], Awaitable[dict[str, Any]]]


class ControlServer:
    """Answers commands; ``handler`` gets the command's word and what follows it on the line."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._server: asyncio.Server | None = None

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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                word, _, rest = (await reader.readline()).decode("utf-8", "replace").strip().partition(" ")
                writer.write(json.dumps(await self._handler(word, rest)).encode() + b"\n")
                await writer.drain()
        writer.close()


async def ask(path: Path, word: str, rest: str = "") -> dict[str, Any] | None:
    """The running agent's answer to ``word`` (and ``rest``, one line), or ``None`` when no agent runs there."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            with _short(path) as short:
                reader, writer = await asyncio.open_unix_connection(short, limit=LINE_BYTES)
            writer.write(f"{word} {rest}".strip().encode() + b"\n")
            line = await reader.readline()
            writer.close()
            return json.loads(line) if line else None
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
