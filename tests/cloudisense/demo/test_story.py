"""What the demo prints: in order, within the terminal, without long paths."""

import io
from typing import Any

from rich.console import Console

from cloudisense.demo.story import TOLD, Story


def told(*events: tuple[str, dict[str, Any]], width: int = 80) -> list[str]:
    out = io.StringIO()
    story = Story(Console(file=out, width=width, highlight=False))
    story.began_ms, story.mount = 1_000, "/tmp/cs-abcdefgh/vol"
    for who, event in events:
        story.event(who, {"at_ms": 1_250, "incident": "x", **event})
    return out.getvalue().splitlines()


def test_long_words_hang_below_their_beginning() -> None:
    text = "Delete temporary files older than 7d in /tmp/cs-abcdefgh/vol/scratch; newer files stay: frees 3.1 MB"
    assert told(("a", {"topic": "candidate", "text": text})) == [
        "  0.250 s  A  helps: Delete temporary files older than 7d in scratch: 3.1 MB"
    ]
    lines = told(("a", {"topic": "offer", "by": "b", "planner": "llm", "plan": "p", "text": "word " * 60}))
    assert lines[0] == "  0.250 s  A  OFFER of B by llm: p" and len(lines) > 3
    assert all(line.startswith(" " * 14 + "word") and len(line) <= 80 for line in lines[1:])


def test_paths_are_told_from_the_volume() -> None:
    (line, aside) = told(("a", {"topic": "alert", "text": "/tmp/cs-abcdefgh/vol is 95 % full (bytes): 60.8 MB of 67.1 MB used"}))
    assert line == "  0.250 s  A  ALERT its disk is 95 % full: 60.8 MB of 67.1 MB used"
    assert aside.strip() == "signed, and sent to every node"


def test_every_line_of_the_story_can_be_told_in_a_narrow_terminal() -> None:
    event = dict.fromkeys(("text", "by", "planner", "plan", "holder"), "b " * 30)
    for who, topic in TOLD:
        lines = told((who, {"topic": topic, **event}), width=50)
        assert lines and max(map(len, lines)) <= 50
    assert told(("c", {"topic": "nonsense", "text": "x"})) == []


def test_without_a_console_nothing_is_told() -> None:
    story = Story(None)
    story.heading("x")
    story.line("x")
    story.event("a", {"topic": "alert", "text": "x", "at_ms": 0})
    story.table([], healed=True, canaries=True)
