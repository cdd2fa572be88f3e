"""A whole GGUF file is told from a truncated, a damaged and a foreign one."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudisense.llm.gguf import Header, read_header


def test_a_whole_file(tmp_path: Path, tiny_gguf: bytes) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf)
    assert read_header(path) == Header("llama", 1, len(tiny_gguf))


def test_every_truncation_is_seen(tmp_path: Path, tiny_gguf: bytes) -> None:
    path = tmp_path / "cut.gguf"
    for length in range(len(tiny_gguf)):
        path.write_bytes(tiny_gguf[:length])
        with pytest.raises(ValueError, match="is not a GGUF file" if length < 4 else "is damaged"):
            read_header(path)


@pytest.mark.parametrize("offset", [4, 8, 16])
def test_absurd_counts_are_refused_at_once(tmp_path: Path, tiny_gguf: bytes, offset: int) -> None:
    path = tmp_path / "absurd.gguf"
    path.write_bytes(tiny_gguf[:offset] + struct.pack("<I", 0xFFFFFFFF) + tiny_gguf[offset + 4 :])
    with pytest.raises(ValueError, match="is damaged"):
        read_header(path)


@given(st.integers(4, 200), st.binary(min_size=1, max_size=12))
def test_any_damage_to_the_header_reads_or_is_a_value_error(tmp_path_factory, tiny_gguf: bytes, offset: int, junk: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk.gguf"
    path.write_bytes(tiny_gguf[:offset] + junk + tiny_gguf[offset + len(junk) :])
    try:
        header = read_header(path)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert header.bytes_min <= path.stat().st_size
