"""``cadran``: the command. Commands import what they need when they run, so that ``--help`` is immediate."""

import errno
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from cadran import __version__
from cadran.cli import (
    bench,
    doctor,
    export,
    finetune,
    inspect,
    keys,
    label,
    models,
    pull,
    quantize,
    report,
    run,
    serve,
    talk,
    tokenizer,
)
from cadran.errors import UserError

app = typer.Typer(
    name="cadran",
    help="From a folder of text to a language-model assistant on the machine you have.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run)
app.command("generate")(talk.generate)
app.command("chat")(talk.chat)
app.command("serve")(serve.serve)
app.add_typer(keys.app, name="keys")
app.command("finetune")(finetune.finetune)
app.command("label")(label.label)
app.command("report")(report.report)
app.command("pull")(pull.pull)
app.add_typer(models.app, name="models")
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.add_typer(tokenizer.app, name="tokenizer")
app.command("bench")(bench.bench)
app.command("doctor")(doctor.doctor)


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if version:
        print(__version__)
        raise typer.Exit
    if debug:
        os.environ["CADRAN_DEBUG"] = "1"


def main() -> None:
    """Entry point: one sentence and exit status 2 for the user's mistake, 1 for ours."""
    console = Console(stderr=True, highlight=False)
    try:
        app()
    except UserError as error:
        _fail(console, error, str(error), error.exit_status)
    except KeyboardInterrupt:
        console.print("stopped; type the same command to go on")
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`cadran ... | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            where = f" under {error.filename}" if error.filename else ""
            _fail(console, error, f"the disk is full{where}; free some space and type the same command again", 2)
        _fail(console, error, f"the system refused: {error}; type the same command with --debug to see where", 1)
    except Exception as error:
        text = f"this is a defect of Cadran ({type(error).__name__}: {error}); type the same command with --debug"
        _fail(console, error, text, 1)


def _fail(console: Console, error: BaseException, text: str, status: int) -> None:
    if os.environ.get("CADRAN_DEBUG"):
        raise error
    console.print(f"cadran: {text}", markup=False, soft_wrap=True)
    sys.exit(status)
