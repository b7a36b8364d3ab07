"""``cadran report``."""

from typing import Annotated

import typer


def report(run: Annotated[str, typer.Argument(help="Name of a run, or its folder.")]) -> None:
    """Write a run's report again: one HTML page with curves, samples, data sheet and cost."""
    from pathlib import Path

    from cadran.recipe.report import write_report
    from cadran.recipe.run import runs_folder

    folder = Path(run) if (Path(run) / "recipe.yaml").is_file() else runs_folder() / run
    print(write_report(folder))
