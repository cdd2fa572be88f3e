"""The command demo: one full disk, three agents."""

from typing import Annotated

import typer

from cloudisense.cli.options import Json, State, print_json


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command()(demo)


def demo(
    planner: Annotated[str | None, typer.Option("--planner", help="Force one planner: rules, llm or memory.")] = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Watch three agents on this host heal a full disk, twice."""
    from cloudisense.demo.run import run_demo

    result = run_demo(planner, state, silent=as_json)
    if as_json:
        print_json(result)
    if not (result["healed"] and result["canaries_intact"]):
        raise typer.Exit(1)
