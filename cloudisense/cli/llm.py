"""Commands for language models: llm add, llm list."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloudisense.cli.options import Json, State, print_json, print_table
from cloudisense.home import home_of

if TYPE_CHECKING:
    from cloudisense.llm.models import Model

app = typer.Typer(help="Language models on this host.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def add(
    model: Annotated[str, typer.Argument(help="smollm2, or the path of a GGUF file.")], state: State = None, as_json: Json = False
) -> None:
    """Fetch or copy a model into the state folder, and check it."""
    from cloudisense.llm import models

    added = models.add(model, home_of(state).models, lambda words: print(words, file=sys.stderr, flush=True))
    if as_json:
        print_json(_row(added))
    else:
        print(f"{added.name}: {added.path}")


@app.command(name="list")
def list_models(state: State = None, as_json: Json = False) -> None:
    """Models in the state folder."""
    from cloudisense.llm import models

    rows = [_row(model) for model in models.installed(home_of(state).models)]
    if as_json:
        print_json(rows)
    else:
        shown = [{**row, "size": f"{row['bytes'] / 1e6:.0f} MB", "sha": row["sha256"][:12]} for row in rows]
        print_table(
            shown, (("name", "name"), ("size", "size"), ("sha", "sha256"), ("path", "file")), "no model; cloudisense llm add smollm2"
        )


def _row(model: "Model") -> dict[str, Any]:
    return {"name": model.name, "path": str(model.path), "sha256": model.sha256, "bytes": model.bytes, "source": model.source}
