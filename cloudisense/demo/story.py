"""Tells what the agents do while they do it: who, what, why, when."""

import re
import textwrap
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLOURS = {"a": "cyan", "b": "magenta", "c": "yellow"}

Words = Callable[[dict[str, Any]], str]

TOLD: dict[tuple[str, str], tuple[str, Words]] = {
    ("a", "alert"): ("bold red", lambda e: f"ALERT {e['text']}\nsigned, and sent to every node"),
    ("b", "alert"): ("dim", lambda e: "has A's alert"),
    ("c", "alert"): ("dim", lambda e: "has A's alert"),
    ("a", "dropped"): ("dim", lambda e: f"no help: {_brief(e['text'])}"),
    ("a", "candidate"): ("", lambda e: f"helps: {_brief(e['text'])}"),
    ("a", "help"): ("", lambda e: f"asks for a plan: {e['text']}"),
    ("b", "thinking"): ("", lambda e: f"{e['text']} ..."),
    ("b", "no plan"): ("red", lambda e: f"has no plan: {e['text']}"),
    ("a", "offer"): ("bold", lambda e: f"OFFER of {e['by'].upper()} by {e['planner']}: {e['plan']}\n{e['text']}"),
    ("a", "refused"): ("red", lambda e: f"REFUSED {e['text']}"),
    ("a", "granted"): ("bold green", lambda e: f"AUTHORISES {e['holder'].upper()}: {e['text']}"),
    ("a", "intent"): ("", lambda e: f"opens its gate for {e['text']}"),
    ("a", "outcome"): ("", lambda e: f"gate: {e['text']}"),
    ("a", "measured"): ("dim", lambda e: f"measures again: {e['text']}"),
    ("a", "lapsed"): ("red", lambda e: e["text"]),
    ("a", "failed"): ("bold red", lambda e: f"NOT HEALED by {e['plan']}\n{e['text']}; this plan is out, the next one"),
    ("a", "resolved"): ("bold green", lambda e: f"VERIFIED {e['text']}\nfixed by {e['plan']} ({e['planner']})"),
    ("a", "escalated"): ("bold red", lambda e: f"ESCALATED {e['text']}"),
    ("a", "cleared"): ("", lambda e: e["text"]),
    ("b", "resolved"): ("dim", lambda e: "remembers what worked"),
    ("c", "resolved"): ("dim", lambda e: "remembers what worked"),
    ("a", "known"): ("green", lambda e: e["text"]),
}
"""(who, topic) -> style and words; the lines after the first are asides. What is not here is not part of the story."""

INDENT = 14


def _brief(candidate: str) -> str:
    """Without what the action's title explains: ``Delete files in scratch; newer ones stay: frees 3 MB``."""
    return re.sub(r"(?:[,;] [^:]*)?: frees ", ": ", candidate)


class Story:
    """Prints to ``console``; silent without one.

    ``began_ms`` is when the fault of this run began, in Unix milliseconds. ``mount`` is where A's small file system lies:
    paths are told from there.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self.began_ms = 0
        self.mount = ""

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
        told_as = words(event).replace(" (bytes)", "")
        if self.mount:
            told_as = told_as.replace(f"{self.mount}/", "").replace(self.mount, "its disk")
        head = Text(f"{seconds}  ").append(who.upper(), style=f"bold {COLOURS[who]}").append("  ")
        for i, part in enumerate(told_as.splitlines()):
            for piece in textwrap.wrap(part, max(20, self._console.width - INDENT)):
                self._console.print(head.append(piece, style=style if i == 0 else "italic"))
                head = Text(" " * INDENT)

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
