"""Writing the report: the page, the figures as JSON, the plots as SVG.

What can be reproduced and what was measured never share a file, except in the page, which is read and not compared.
"""

from pathlib import Path
from typing import Any

from cadran.files import write_json, write_text
from cadran.recipe.report.alignment_plots import draw_alignment
from cadran.recipe.report.cost import cost
from cadran.recipe.report.curves import NAMES
from cadran.recipe.report.data import Record, RunData, branch, gather
from cadran.recipe.report.order import TRAINED
from cadran.recipe.report.page import render
from cadran.recipe.report.plots import Plot, drawing_style
from cadran.recipe.report.training_plots import PLOTS

REPRODUCIBLE = (
    *("report.json", "loss.svg", "bits_per_byte.svg", "learning_rate.svg"),
    *(f"{name}.svg" for name in NAMES),
)
"""Files of the report that are equal byte for byte when the run is repeated; a drawing without data is not written."""

MEASURED = ("index.html", "cost.json", "speed.svg", "time_per_stage.svg")
"""Files of the report that hold clock times."""

_TRAINING = ("steps", "tokens", "epochs", "flops", "precision")
_BEFORE_AFTER = ("success", "reward", "held_out_loss", "accuracy", "perplexity", "kl", "kl_target")
_FIGURES = {
    "corpus": ("sources", "settings", "rules", "languages"),
    "tokenizer": ("vocabulary", "bytes_per_token", "tokens"),
    "base": (*_TRAINING, "parameters", "context", "bits_per_byte", "baselines", "fill_in_the_middle"),
    "sft": (*_TRAINING, "rows", "supervised_tokens", "topic", "description", "held_out_loss", "refused"),
    "reward": (
        *_TRAINING,
        "pairs",
        "accuracy",
        "interval",
        "by_kind",
        "calibration",
        "calibration_error",
        "mean",
        "std",
    ),
    "dpo": (*_TRAINING, *_BEFORE_AFTER, "pairs", "by_kind", "models"),
    "kto": (*_TRAINING, *_BEFORE_AFTER, "rows", "by_kind", "models"),
    "grpo": (*_TRAINING, *_BEFORE_AFTER, "prompts"),
    "ppo": (*_TRAINING, *_BEFORE_AFTER, "prompts"),
    "distil": (*_TRAINING, *_BEFORE_AFTER, "divergence"),
    "int8": (
        "file",
        "of",
        "bytes_before",
        "bytes_after",
        "bits",
        "perplexity_before",
        "perplexity_after",
        "divergence",
    ),
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
    for name in (*PLOTS, *NAMES):
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


def draw_plots(data: RunData) -> dict[str, Plot]:
    """Every drawing for which the run has data, by name: the keys of ``PLOTS`` and the ``NAMES`` that apply."""
    drawn = {}
    with drawing_style():
        for name, draw in PLOTS.items():
            plot = draw(data)
            if plot is not None:
                drawn[name] = plot
        drawn |= draw_alignment(data)
    return drawn


def figures(data: RunData) -> Record:
    """The reproducible figures of a run: chosen by name, so that no clock time can slip in."""
    chosen: dict[str, Any] = {
        stage: {key: data.results[stage][key] for key in keys if key in data.results[stage]}
        for stage, keys in _FIGURES.items()
        if stage in data.results
    }
    for stage in TRAINED:
        loss = data.events.curve(stage, "loss")
        if stage in chosen and loss:
            chosen[stage]["last_loss"] = loss[-1][1]
        examinations = [
            {"step": step, "figures": {name: value for name, value in found.items() if "second" not in name}}
            for step, found in data.events.examinations(stage)
        ]
        if stage in chosen and examinations:
            chosen[stage]["examinations"] = examinations
    if "base" in chosen:
        chosen["base"]["evaluations"] = [
            {"step": event["step"], "bits_per_byte": branch(event, "bits_per_byte")}
            for event in data.events.evaluations()
        ]
    return chosen | {"missing": data.missing}
