"""``cadran run``."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cadran.recipe.schema import Recipe


def run(
    recipe: Annotated[
        str, typer.Argument(help="Name of a recipe (smoke, quickstart, assistant, arithmetic) or a YAML file.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. minutes=60 base.rows=8.")
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="Do this stage and the later ones again.")] = None,
    only: Annotated[str | None, typer.Option(help="Do this stage alone.")] = None,
) -> None:
    """Run a recipe, stage by stage, to its report. Stopped or killed, the same command goes on."""
    from cadran.recipe.schema import load_recipe

    finish(load_recipe(recipe, overrides), start, only)


def finish(recipe: "Recipe", start: str | None, only: str | None) -> None:
    """Run a recipe that was read, show how it goes, and say what to do with what came of it."""
    from rich.console import Console

    from cadran.cli.show import Show
    from cadran.train.machine import restart_with_huge_pages

    restart_with_huge_pages()

    from cadran.recipe.pipeline import run_pipeline

    console = Console()
    with Show(console) as show:
        done = run_pipeline(recipe, show.event, show.progress, start=start, only=only)
    page = done.folder / "report" / "index.html"
    lines = [f"\nThe run is in {done.folder}"]
    lines += [f"read    {page}"] if page.is_file() else []
    lines += [f"talk    cadran chat {done.name}"]
    lines += [f"adapter {adapter}" for adapter in sorted(done.folder.glob("*/adapter"))]
    for line in lines:  # names of files: never broken, and nothing in them is markup
        console.print(line, markup=False, highlight=False, soft_wrap=True)
