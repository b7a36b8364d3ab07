"""``cadran run``."""

from typing import Annotated

import typer


def run(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe (smoke, quickstart) or a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. minutes=60 base.rows=8.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="Do this stage and the later ones again.")] = None,
    only: Annotated[str | None, typer.Option(help="Do this stage alone.")] = None,
) -> None:
    """Run a recipe: corpus, tokenizer, base, sft, report. Stopped or killed, the same command goes on."""
    from cadran.recipe.schema import load_recipe

    loaded = load_recipe(recipe, overrides)

    from rich.console import Console

    from cadran.cli.show import Show
    from cadran.train.machine import restart_with_huge_pages

    restart_with_huge_pages()

    from cadran.recipe.pipeline import run_pipeline

    console = Console()
    with Show(console) as show:
        done = run_pipeline(loaded, show.event, show.progress, start=start, only=only)
    page = done.folder / "report" / "index.html"
    console.print(f"\nThe run is in {done.folder}", highlight=False)
    if page.is_file():
        console.print(f"read    {page}", highlight=False)
    console.print(f"talk    cadran chat {done.name}", highlight=False)
