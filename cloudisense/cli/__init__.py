"""The command line. A command's bad input ends in one line on stderr and a non-zero exit."""

import sys

import click
import typer

from cloudisense.cli import audit, demo, llm, mesh, show, sim

app = typer.Typer(
    name="cloudisense",
    help="Agents that keep edge hosts and air-gapped clusters alive by themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (mesh, show, demo, sim):
    module.register(app)
app.add_typer(llm.app, name="llm")
app.add_typer(audit.app, name="audit")


def main() -> None:
    """The entry point of ``cloudisense`` and ``python -m cloudisense``."""
    try:
        code = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx is not None else "cloudisense"
        _fail(f"{error.format_message().rstrip('.')}; see {where} --help", 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except ValueError as error:
        _fail(str(error), 1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    else:
        sys.exit(code if isinstance(code, int) else 0)


def _fail(line: str, code: int) -> None:
    print("cloudisense: " + " ".join(line.split()), file=sys.stderr)
    sys.exit(code)
