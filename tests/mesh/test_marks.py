"""Marks: bounded on disk and in memory, and what is forgotten still holds."""

from hypothesis import given
from hypothesis import strategies as st

from cloudisense.mesh.effects import Put
from cloudisense.mesh.marks import Marks
from cloudisense.mesh.token import Token

HOLDER = b"\x01" * 32


def rows(puts: tuple[Put, ...] | None) -> dict[str, bytes]:
    return {str(put.row["key"]): bytes(put.row["value"]) for put in puts or () if isinstance(put.row["value"], bytes)}


def test_full_of_keys_that_must_stay() -> None:
    marks = Marks("m", 2, {})
    for key in "ab":
        assert marks.put(key, Token(1, 1, HOLDER), lambda _: False)
    assert marks.put("c", Token(1, 1, HOLDER), lambda _: False) is None
    assert marks.put("c", Token(1, 1, HOLDER), lambda key: key == "b")
    assert marks.get("b") == Token(1, 1, b"") and marks.get("a").holder == HOLDER


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 3), st.integers(1, 50)), max_size=40), st.integers(1, 3))
def test_nothing_ever_falls_over_any_restart(puts: list[tuple[str, int, int]], size: int) -> None:
    disk: dict[str, bytes] = {}
    marks = Marks("m", size, disk)
    highest: dict[str, tuple[int, int]] = {}
    for key, epoch, round_ in puts:
        token = Token(max(epoch, marks.get(key).epoch), max(round_, marks.get(key).round), HOLDER)
        disk |= rows(marks.put(key, token, lambda _: True))
        highest[key] = token[:2]
        again = Marks("m", size, disk)
        for one in (marks, again):
            for other, (e, r) in highest.items():
                assert one.get(other).epoch >= e and one.get(other).round >= r
            assert one.highest_round() >= max(r for _, r in highest.values())
        assert len(marks) <= size and len(disk) <= size + 1
        assert {k: again.get(k) for k in "abcdef"} == {k: marks.get(k) for k in "abcdef"}
