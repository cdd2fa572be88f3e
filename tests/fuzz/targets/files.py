"""Files and lines that a person or a disk gives: configuration, GGUF header, a control command's line.

The first byte chooses. ``ValueError`` with one line is the right answer to what is wrong.
"""

import asyncio
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudisense.config import parse_config
from cloudisense.control import LINE_BYTES, ControlServer
from cloudisense.llm.gguf import read_header

CONFIG = b"""[mesh]
bind = "0.0.0.0:7963"
seeds = ["a.example:1"]
[[path]]
path = "/x"
role = "cache"
[mode]
reversible = "act"
"""


def seeds() -> list[bytes]:
    """One of each."""
    key = b"general.architecture"
    gguf = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 5) + b"llama"
    gguf += struct.pack("<Q", 1) + b"w" + struct.pack("<IQIQ", 1, 4, 0, 0) + bytes(64)
    return [b"\0" + CONFIG, b"\x01" + gguf, b"\x02status\n", b"\x02" + b"x" * 300]


class _Writer:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    async def drain(self) -> None: ...

    def close(self) -> None: ...


def make() -> Callable[[bytes], None]:
    """The thing to feed."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz")
    file = Path(folder.name) / "m.gguf"
    words: list[str] = []

    async def handler(word: str) -> dict[str, Any]:
        words.append(word)
        return {"error": f"unknown command {word!r}"}

    server = ControlServer(Path(folder.name) / "sock", handler)

    async def line(data: bytes) -> None:
        reader, writer = asyncio.StreamReader(limit=LINE_BYTES), _Writer()
        reader.feed_data(data)
        reader.feed_eof()
        serve: Any = server._serve
        await serve(reader, writer)
        assert writer.written.count(b"\n") <= 1
        assert len(words) <= 1
        words.clear()

    def gguf(data: bytes) -> None:
        file.write_bytes(data)
        read_header(file)

    def one(data: bytes, keep: object = folder) -> None:
        if not data:
            return
        try:
            if data[0] % 3 == 0:
                parse_config(data[1:], "agent.toml")
            elif data[0] % 3 == 1:
                gguf(data[1:])
            else:
                asyncio.run(line(data[1:]))
        except ValueError as error:
            assert "\n" not in str(error), "one line"

    return one
