"""Options that many commands share, and how results are printed."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

State = Annotated[
    Path | None, typer.Option("--state", help="State folder; default /var/lib/cloudisense as root, else the user's data folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    json.dump(value, sys.stdout, ensure_ascii=False)
    sys.stdout.write("\n")


def plain(text: str) -> str:
    """``text`` without what could steer a terminal: much of what a command shows was written by another node."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def print_table(rows: list[dict[str, Any]], columns: tuple[tuple[str, str], ...], empty: str) -> None:
    """Rows for people: (key, heading) pairs; ``empty`` when there are none."""
    if not rows:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for key, heading in columns:
        table.add_column(heading, justify="right" if key.endswith("_ms") or key == "ms_to_heal" else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(str(row.get(key, "")))) for key, _ in columns))
    Console(soft_wrap=False).print(table)
