"""What two runs of one seed share."""

from cloudisense.sim.trace import Trace


def of(*notes) -> str:
    trace = Trace()
    for note in notes:
        trace.note(*note)
    return trace.hash


def test_everything_is_in_the_hash() -> None:
    base = (1, "a", "send", b"x")
    assert of(base) == of(base)
    others = [of(), of(base, base), *(of((*base[:i], new, *base[i + 1 :])) for i, new in enumerate((2, "b", "bulk", b"y")))]
    assert len({of(base), *others}) == 7


def test_words_are_kept_and_hashed() -> None:
    trace = Trace()
    trace.tell(2_500_000, "a", "alert", "i", "full")
    [line] = trace.lines
    assert (line.at_ms, line.node, line.topic, line.incident, line.text) == (2, "a", "alert", "i", "full")
    assert trace.hash != Trace().hash
