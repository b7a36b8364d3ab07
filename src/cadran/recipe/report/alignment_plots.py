"""The curves of the stages that turn a completer into an assistant, and the calibration of a reward model."""

from collections.abc import Iterator
from typing import Any

from cadran.recipe.report.curves import Drawing, drawings, held_out
from cadran.recipe.report.data import RunData, number, rows
from cadran.recipe.report.events import Curve
from cadran.recipe.report.order import ALIGNED
from cadran.recipe.report.plots import (
    COLOURS,
    STAGE_COLOURS,
    Plot,
    draw_line,
    draw_noisy,
    ending,
    finish,
    legend,
    new_axes,
    new_figure,
)
from cadran.recipe.report.wording import count, percent, plain, stage_name

_HEIGHT = 178
_LEFT, _WIDTH = 0.165, 0.8


def draw_alignment(data: RunData) -> Iterator[tuple[str, Plot]]:
    """(name, drawing) of everything that the alignment stages have to show, in the order of the pipeline.

    The names are among ``curves.NAMES``; to be called within ``plots.drawing_style``.
    """
    for stage in ALIGNED:
        for drawing in drawings(data, stage):
            yield f"{stage}_{drawing.name}", _draw(data, stage, drawing)
        calibration = _draw_calibration(data, stage)
        if calibration is not None:
            yield f"{stage}_calibration", calibration


def _draw(data: RunData, stage: str, drawing: Drawing) -> Plot:
    examined = held_out(data, stage, drawing)
    lines = _lines(data, stage, drawing, examined)
    height = _HEIGHT + 16 * -(-(len(lines) + (drawing.mark is not None)) // 2)  # two names a row above it
    figure = new_figure(height)
    axes = new_axes(figure, (_LEFT, 24 / height, _WIDTH, 126 / height))
    for text, curve, colour, is_examined in lines:
        label = f"{text} {_said(drawing, _last(curve, is_examined))}"
        if is_examined:
            draw_line(axes, curve, colour, 1.4, marker="o", markersize=3.5, dashes=(3, 1.5), label=label)
        else:
            draw_noisy(axes, curve, colour, label, steady=True)
    if drawing.mark is not None:
        mark, name = drawing.mark
        axes.axhline(mark, color=COLOURS["muted"], linewidth=1.2, dashes=(5, 2), label=name)
    axes.margins(y=0.08)
    _scale(axes, drawing)
    legend(figure, 2)
    figure.text(0, (24 + 126 + 11) / height, f"{drawing.unit}, by step", color=COLOURS["muted"])
    texts = [
        f"{text} from {_said(drawing, curve[0][1])} to {_said(drawing, _last(curve, is_examined))}"
        for text, curve, _, is_examined in lines
    ]
    return finish(figure, f"{stage_name(stage)}, {drawing.title}: {'; '.join(texts)}.")


def _lines(
    data: RunData, stage: str, drawing: Drawing, examined: dict[str, Curve]
) -> list[tuple[str, Curve, str, bool]]:
    """(name, curve, colour, whether it was held out) of each line, the held-out one after that of the training."""
    lines = []
    for figure, text, colour in drawing.lines:
        if not drawing.examined and (curve := data.events.curve(stage, figure)):
            lines.append((text, curve, colour or STAGE_COLOURS[stage], False))
        if curve := examined.get(figure) or []:
            alone = len(drawing.lines) == 1
            lines.append(("held out" if alone else f"{text}, held out", curve, "ink" if alone else colour, True))
    return lines


def _last(curve: Curve, examined: bool) -> float:
    return curve[-1][1] if examined else ending(curve)


def _said(drawing: Drawing, value: float) -> str:
    return percent(value) if drawing.share else plain(value)


def _scale(axes: Any, drawing: Drawing) -> None:
    low, high = axes.get_ylim()
    if not drawing.share:
        axes.yaxis.set_major_formatter(lambda value, _: plain(value))
        return
    axes.set_ylim(low if drawing.name == "accuracy" else 0, max(min(high, 1.03), 0.05))
    digits = 0 if high - low > 0.06 else 1
    axes.yaxis.set_major_formatter(lambda share, _: percent(share, digits))


def _draw_calibration(data: RunData, stage: str) -> Plot | None:
    """Foretold against observed, by how sure the model is: points with the bars that chance allows."""
    from cadran.evaluate.classification import wilson_interval

    points = []
    for row in rows(data.results.get(stage), "calibration"):
        predicted, observed, pairs = number(row, "predicted"), number(row, "observed"), number(row, "pairs")
        if predicted is None or observed is None or pairs is None or not (0 <= predicted <= 1 and 0 <= observed <= 1):
            continue
        if 1 <= pairs < 2**53:
            points.append((float(predicted), float(observed), int(pairs)))
    if not points:
        return None
    height = 330
    figure = new_figure(height)
    axes = new_axes(figure, (_LEFT, 40 / height, _WIDTH, 255 / height))
    low = 0.5 if all(predicted >= 0.5 for predicted, _, _ in points) else 0.0
    axes.plot([low, 1], [low, 1], color=COLOURS["muted"], linewidth=1.2, dashes=(5, 2))
    colour = COLOURS[STAGE_COLOURS[stage]]
    lowest = low
    for predicted, observed, pairs in sorted(points):
        bottom, top = wilson_interval(round(observed * pairs), pairs)
        lowest = min(lowest, bottom)
        axes.plot([predicted, predicted], [bottom, top], color=colour, linewidth=1.6, alpha=0.5)
        axes.plot([predicted], [observed], color=colour, marker="o", markersize=6)
        axes.annotate(
            count(pairs), (predicted, observed), (7, -4), textcoords="offset points", color=COLOURS["ink"], fontsize=9
        )
    axes.set_xlim(low - 0.02, 1.06)
    axes.set_ylim(lowest - 0.02, 1.03)
    ticks = [low + (1 - low) * part / 5 for part in range(6)]
    axes.set_xticks(ticks)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: percent(share, 0))
    figure.text(
        0, 1 - 14 / height, "observed: the first answer is the better; beside it, the pairs", color=COLOURS["muted"]
    )
    figure.text(_LEFT + _WIDTH, 6 / height, "foretold probability of that", color=COLOURS["muted"], ha="right")
    texts = [f"{percent(p)} foretold, {percent(o)} observed, {count(n)} pairs" for p, o, n in sorted(points)]
    return finish(figure, f"{stage_name(stage)}, calibration: {'; '.join(texts)}.")
