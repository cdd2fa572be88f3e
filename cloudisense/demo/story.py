"""Tells what the agents do while they do it: who, what, why, when."""

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {"a": "cyan", "b": "magenta", "c": "yellow"}

Words = Callable[[dict[str, Any]], str]

TOLD: dict[tuple[str, str], tuple[str, Words]] = {
    ("a", "alert"): ("bold red", lambda e: f"ALERT {e['text']} - signed, sent to every node"),
    ("b", "alert"): ("dim", lambda e: "has A's alert"),
    ("c", "alert"): ("dim", lambda e: "has A's alert"),
    ("a", "dropped"): ("dim", lambda e: f"cannot help: {e['text']}"),
    ("a", "candidate"): ("", lambda e: f"could help: {e['text']}"),
    ("a", "help"): ("", lambda e: f"asks for a plan: {e['text']}"),
    ("b", "thinking"): ("", lambda e: f"{e['text']} (on this host, in a process of its own) ..."),
    ("b", "no plan"): ("red", lambda e: f"has no plan: {e['text']}"),
    ("a", "offer"): ("bold", lambda e: f"OFFER of {e['by'].upper()} by {e['planner']}: {e['plan']}\n{e['text']}"),
    ("a", "refused"): ("red", lambda e: f"REFUSED {e['text']}"),
    ("a", "granted"): ("bold green", lambda e: f"AUTHORISES {e['holder'].upper()}: {e['text']}"),
    ("a", "intent"): ("", lambda e: f"opens its gate for {e['text']}"),
    ("a", "outcome"): ("", lambda e: f"gate: {e['text']}"),
    ("a", "measured"): ("dim", lambda e: f"measures again: {e['text']}"),
    ("a", "lapsed"): ("red", lambda e: e["text"]),
    ("a", "failed"): ("bold red", lambda e: f"NOT HEALED by {e['plan']}: {e['text']} - this plan is out, the next one"),
    ("a", "resolved"): ("bold green", lambda e: f"VERIFIED {e['text']}: fixed by {e['plan']} ({e['planner']})"),
    ("a", "escalated"): ("bold red", lambda e: f"ESCALATED {e['text']}"),
    ("a", "cleared"): ("", lambda e: e["text"]),
    ("b", "resolved"): ("dim", lambda e: "remembers what worked"),
    ("c", "resolved"): ("dim", lambda e: "remembers what worked"),
    ("a", "known"): ("green", lambda e: e["text"]),
}
"""(who, topic) -> style and words. What is not here is not part of the story."""


class Story:
    """Prints to ``console``; silent without one. ``began_ms`` is when the fault of this run began, in Unix milliseconds."""

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self.began_ms = 0

    def heading(self, words: str) -> None:
        """A new chapter."""
        if self._console is not None:
            self._console.print()
            self._console.print(words, style="bold", highlight=False)

    def line(self, words: str, style: str = "") -> None:
        """Something that no agent says."""
        if self._console is not None:
            self._console.print(Text(f"           {words}", style=style))

    def event(self, who: str, event: dict[str, Any]) -> None:
        """An agent said something."""
        told = TOLD.get((who, event["topic"]))
        if told is None or self._console is None:
            return
        style, words = told
        seconds = f"{(event['at_ms'] - self.began_ms) / 1000:7.3f} s" if self.began_ms else " " * 9
        for i, part in enumerate(words(event).splitlines()):
            line = Text(f"{seconds}  " if i == 0 else " " * 11)
            line.append(who.upper() if i == 0 else " ", style=f"bold {COLOURS[who]}")
            line.append("  " + part, style=style if i == 0 else "italic")
            self._console.print(line)

    def table(self, runs: list[dict[str, Any]], healed: bool, canaries: bool) -> None:
        """The end: times of all runs beside each other."""
        if self._console is None:
            return
        table = Table(title="milliseconds from the beginning of the fault", title_justify="left", box=None, pad_edge=False)
        table.add_column("")
        for i, run in enumerate(runs):
            table.add_column(f"run {i + 1}: {run['planner']}", justify="right")
        for key in ("opened", "offered", "granted", "acted", "verified", "known_to_all"):
            table.add_row(key.replace("_", " "), *(str(run[f"{key}_ms"]) for run in runs))
        for key in ("used_before", "used_after"):
            table.add_row(key.replace("_", " "), *(f"{run[key]} %" for run in runs))
        for key in ("planned_by", "acted_by", "authorised_by", "plan"):
            table.add_row(key.replace("_", " "), *(str(run[key]) for run in runs))
        self._console.print()
        self._console.print(table)
        self._console.print()
        words = "healed, measured on the file system itself" if healed else "NOT healed"
        self._console.print(
            f"{words}; every canary is {'intact' if canaries else 'NOT intact'}", style="bold green" if healed and canaries else "bold red"
        )
