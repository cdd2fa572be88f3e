"""The command line. A command's bad input ends in one line on stderr and a non-zero exit."""

import sys

import typer

from cloudisense.cli import audit, demo, forget, llm, mesh, roster, show, sim
from cloudisense.keys.errors import RemoteProtocolError

app = typer.Typer(
    name="cloudisense",
    help="Agents that keep edge hosts and air-gapped clusters alive by themselves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (mesh, show, roster, forget, demo, sim):
    module.register(app)
app.add_typer(llm.app, name="llm")
app.add_typer(audit.app, name="audit")


def main() -> None:
    """The entry point of ``cloudisense`` and ``python -m cloudisense``."""
    try:
        code = app(standalone_mode=False, prog_name="cloudisense")
    except typer.TyperException as error:
        # Typer carries a click of its own; of its usage errors only this base is public.
        words = error.format_message()
        if words.startswith("Usage:"):  # no command was named, and this is the help
            print(words)
            sys.exit(error.exit_code)
        context = getattr(error, "ctx", None)
        where = context.command_path if context is not None else "cloudisense"
        _fail(f"{words.rstrip('.')}; see {where} --help", error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted", 130)
    except ValueError as error:
        _fail(str(error), 1)
    except RemoteProtocolError as error:  # nothing is read from outside here but what the state folder kept of it
        _fail(f"the state database is damaged: {error.reason}; restore a copy, or join anew with another --state", 1)
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
