"""Writing the report: the page, the figures as JSON, the plots as SVG.

What can be reproduced and what was measured never share a file, except in the page, which is read and not compared.
"""

from pathlib import Path
from typing import Any

from cadran.files import write_json, write_text
from cadran.recipe.report.cost import cost
from cadran.recipe.report.data import Record, RunData, branch, gather
from cadran.recipe.report.page import render
from cadran.recipe.report.plots import PLOTS, draw_plots

REPRODUCIBLE = ("report.json", "loss.svg", "bits_per_byte.svg", "learning_rate.svg")
"""Files of the report that are equal byte for byte when the run is repeated."""

MEASURED = ("index.html", "cost.json", "speed.svg", "time_per_stage.svg")
"""Files of the report that hold clock times."""

_FIGURES = {
    "corpus": ("sources", "settings", "rules", "languages"),
    "tokenizer": ("vocabulary", "bytes_per_token", "tokens"),
    "base": (
        *("parameters", "steps", "tokens", "epochs", "flops", "precision", "context"),
        *("bits_per_byte", "baselines"),
    ),
    "sft": ("rows", "supervised_tokens", "steps", "flops", "topic", "description"),
}


def write_report(run: Path) -> Path:
    """Write the report of a run into ``run/report/``: ``REPRODUCIBLE`` and ``MEASURED`` files.

    A run that stopped early gets a report of what there is; a plot without data is not written (and one that an
    earlier report left is removed).

    Args:
        run: a run directory.

    Returns:
        Path of the page, `run/report/index.html`.

    Raises:
        UserError: ``run`` is no run directory, or one of its files is damaged (the file is named).
    """
    data = gather(run)
    folder = run / "report"
    plots = draw_plots(data)
    for name in PLOTS:
        path = folder / f"{name}.svg"
        if name in plots:
            write_text(path, plots[name].svg)
        else:
            path.unlink(missing_ok=True)
    write_json(folder / "report.json", figures(data))
    write_json(folder / "cost.json", cost(data))
    page = folder / "index.html"
    write_text(page, render(data, plots))
    return page


def figures(data: RunData) -> Record:
    """The reproducible figures of a run: chosen by name, so that no clock time can slip in."""
    chosen: dict[str, Any] = {
        stage: {key: data.results[stage][key] for key in keys if key in data.results[stage]}
        for stage, keys in _FIGURES.items()
        if stage in data.results
    }
    evaluations = [
        {"step": event["step"], "bits_per_byte": branch(event, "bits_per_byte")} for event in data.events.evaluations()
    ]
    for stage in ("base", "sft"):
        loss = data.events.curve(stage, "loss")
        if stage in chosen and loss:
            chosen[stage]["last_loss"] = loss[-1][1]
    if "base" in chosen:
        chosen["base"]["evaluations"] = evaluations
    return chosen | {"missing": data.missing}
