"""``cadran models`` and ``cadran models rm``."""

from typing import Annotated

import typer

app = typer.Typer(help="List the models on this machine, or remove one.")


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For a program.")] = False,
) -> None:
    """List the models on this machine: pulled ones and those of runs."""
    if context.invoked_subcommand is not None:
        return
    import json

    from cadran.library.catalogue import catalogue
    from cadran.recipe.run import runs_folder

    entries = catalogue(runs_folder())
    if as_json:
        print(json.dumps([entry.to_json() for entry in entries], ensure_ascii=False))
        return
    if not entries:
        print("no model is here yet; type cadran pull smollm2")
        return
    from rich.console import Console
    from rich.table import Table

    from cadran.cli.readable import bytes_of, count_of

    table = Table(
        "name", "architecture", "parameters", "size", "kind", "context", "licence", "can", box=None, pad_edge=False
    )
    for column in (2, 3, 5):
        table.columns[column].justify = "right"
    for entry in entries:
        context_length = "-" if entry.context is None else f"{entry.context:,}"
        table.add_row(
            entry.name, entry.architecture or "-", count_of(entry.parameters), bytes_of(entry.bytes), entry.kind or "-",
            context_length, entry.licence or "-", ", ".join(entry.capabilities) or "-",
        )  # fmt: skip
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200  # a program reads it: one line a model
    console.print(table)
    for entry in entries:
        if entry.problem:
            console.print(f"{entry.name}: {entry.problem}", soft_wrap=True)


@app.command("rm")
def rm(
    name: Annotated[str, typer.Argument(help="Name of a pulled model.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a pulled model."""
    from cadran.library.catalogue import remove

    if not yes and not typer.confirm(f"remove {name}?", err=True):
        print("nothing was removed")
        return
    remove(name)
    print(f"{name} was removed")
