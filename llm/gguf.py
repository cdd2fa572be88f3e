"""A GGUF file's header, read far enough to tell a whole model from a truncated or a foreign file.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Weights are not read; a flipped bit in them is the
SHA-256's business.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC = b"GGUF"
VERSIONS = (2, 3)
TENSORS_MAX = 65_536
KEYS_MAX = 4_096
TEXT_BYTES_MAX = 16 * 1024 * 1024
ITEMS_MAX = 4_000_000
"""Longest array in the metadata; the largest vocabularies have about 260,000 entries."""

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_TEXT, _ARRAY = 8, 9
# Tensor type: (elements per block, bytes per block). A type that is not here counts as nothing: its start must still lie in the file.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    20: (32, 18), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 30: (1, 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. ``bytes_min`` is the least size at which every tensor is whole."""

    architecture: str
    tensors: int
    bytes_min: int


def read_header(path: Path) -> Header:
    """The header of the file at ``path``. ``ValueError``, one line, when it is no GGUF file, a damaged or a truncated one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is not a GGUF file")
        try:
            header = _header(file, size)
        except (struct.error, UnicodeDecodeError, _Damaged):
            raise ValueError(f"{path} is damaged: its GGUF header does not add up") from None
    if header.bytes_min > size:
        raise ValueError(f"{path} is damaged: it ends after {size} bytes, and its tensors need {header.bytes_min}")
    return header


class _Damaged(Exception):
    pass


def _header(file: BinaryIO, size: int) -> Header:
    version, tensors, keys = _unpack(file, "<IQQ")
    if version not in VERSIONS or not 0 < tensors <= TENSORS_MAX or keys > KEYS_MAX:
        raise _Damaged
    architecture, alignment = "", 32
    for _ in range(keys):
        key = _text(file)
        (kind,) = _unpack(file, "<I")
        if key == "general.architecture" and kind == _TEXT:
            architecture = _text(file)
        elif key == "general.alignment" and kind == 4:
            (alignment,) = _unpack(file, "<I")
        else:
            _skip(file, kind, size)
    if not 0 < alignment <= 4096 or not architecture:
        raise _Damaged
    end = 0
    for _ in range(tensors):
        end = max(end, _tensor_end(file))
    start = -(-file.tell() // alignment) * alignment
    return Header(architecture, tensors, start + end)


def _tensor_end(file: BinaryIO) -> int:
    """Where one tensor ends, in bytes from the start of the tensor data."""
    _text(file)
    (dimensions,) = _unpack(file, "<I")
    if not 0 < dimensions <= 4:
        raise _Damaged
    elements = 1
    for extent in _unpack(file, f"<{dimensions}Q"):
        elements *= extent
    kind, offset = _unpack(file, "<IQ")
    per_block, size = _BLOCKS.get(kind, (1, 0))
    return offset + elements // per_block * size


def _skip(file: BinaryIO, kind: int, size: int) -> None:
    if kind == _TEXT:
        _text(file)
    elif kind == _ARRAY:
        item, count = _unpack(file, "<IQ")
        if count > ITEMS_MAX or item == _ARRAY:
            raise _Damaged
        if item == _TEXT:
            for _ in range(count):
                _text(file)
        else:
            _forward(file, _size_of(item) * count, size)
    else:
        _forward(file, _size_of(kind), size)


def _size_of(kind: int) -> int:
    if kind not in _SIZES:
        raise _Damaged
    return _SIZES[kind]


def _forward(file: BinaryIO, count: int, size: int) -> None:
    if file.tell() + count > size:
        raise _Damaged
    file.seek(count, 1)


def _text(file: BinaryIO) -> str:
    (length,) = _unpack(file, "<Q")
    if length > TEXT_BYTES_MAX:
        raise _Damaged
    raw = file.read(length)
    if len(raw) != length:
        raise _Damaged
    return raw.decode(errors="replace")


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))
