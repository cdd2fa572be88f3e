"""What fuzzing found, replayed without the fuzzer, and the same targets under hypothesis: no exception, whatever comes in."""

import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

HERE = Path(__file__).resolve().parent
TARGETS = sorted(path.stem for path in (HERE / "targets").glob("*.py"))
CORPUS_BYTES = 200_000


@cache
def module(target: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{target}", HERE / "targets" / f"{target}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@cache
def fed(target: str) -> Callable[[bytes], None]:
    return module(target).make()


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_corpus(target: str) -> None:
    inputs = module(target).seeds()
    assert inputs
    inputs += [path.read_bytes() for path in sorted((HERE / "corpus" / target).glob("*"))]
    for data in inputs:
        fed(target)(data)


@pytest.mark.parametrize("target", TARGETS)
def test_every_flipped_byte_of_the_seeds(target: str) -> None:
    for data in module(target).seeds():
        for i in range(0, len(data), max(1, len(data) // 60)):
            fed(target)(data[:i] + bytes([data[i] ^ 0xFF]) + data[i + 1 :])
            fed(target)(data[:i])


@pytest.mark.parametrize("target", TARGETS)
def test_anything(target: str) -> None:
    @settings(max_examples=150)
    @given(st.integers(0, 15), st.binary(max_size=300))
    def run(way: int, data: bytes) -> None:
        fed(target)(bytes([way]) + data)

    run()


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in (HERE / "corpus").rglob("*") if path.is_file()) < CORPUS_BYTES
