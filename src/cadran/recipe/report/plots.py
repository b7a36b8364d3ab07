"""The curves of a run as SVG files: equal data gives equal bytes, so most of them are artefacts like any other.

matplotlib draws; its defaults are restored first, so that a reader's own settings change nothing. Colours are those
of the light page. `embed` turns each into the variable of the same name, and the page's style sheet does the rest.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import fsum
from typing import Any

from cadran.recipe.report.data import RunData, number
from cadran.recipe.report.events import Curve
from cadran.recipe.report.wording import count, duration, language_name, percent, stage_name

COLOURS = {
    "surface": "#ffffff",
    "ink": "#20242c",
    "muted": "#5a616e",
    "grid": "#e5e3dd",
    "base": "#0d6b67",
    "sft": "#8b4a9e",
    "first": "#1c6cb0",
    "second": "#c2452a",
    "third": "#8a6d0f",
}
BASELINES = (
    ("kneser_ney_5", "Kneser-Ney 5-gram"),
    ("xz_given_training", "xz after training text"),
    ("xz_alone", "xz alone"),
)
_DASHES = ((5, 2), (1.5, 1.5), (6, 2, 1.5, 2))
_WIDTH = 330  # user units; text of 10 stays readable when a telephone shrinks the drawing
_TRAINED = ("base", "sft")


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and, for those who do not see it, a sentence with its figures."""

    svg: str
    label: str


def draw_plots(data: RunData) -> dict[str, Plot]:
    """Every plot for which the run has data, by name: the keys of ``PLOTS`` that apply, in their order."""
    import matplotlib

    drawn = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "cadran",
                "svg.fonttype": "none",
                "font.family": "DejaVu Sans",  # comes with matplotlib: the same metrics everywhere
                "font.size": 10,
                "text.parse_math": False,  # a dollar sign in a name is a dollar sign
                "text.color": COLOURS["ink"],
                "figure.facecolor": COLOURS["surface"],
                "axes.facecolor": COLOURS["surface"],
                "lines.solid_capstyle": "round",
            }
        )
        for name, draw in PLOTS.items():
            plot = draw(data)
            if plot is not None:
                drawn[name] = plot
    return drawn


def embed(plot: Plot, name: str) -> str:
    """The drawing for a page: no prolog, no size of its own, colours of the page, identifiers that no other has."""
    svg = plot.svg[plot.svg.index("<svg") :]
    svg = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\" height=\"[^\"]*\"", r"\1", svg, count=1)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r"<defs>\s*<style.*?</defs>\s*", "", svg, count=1, flags=re.DOTALL)
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg))
    used_names = {first or second for first, second in used}
    svg = re.sub(r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used_names else "", svg)
    svg = svg.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for colour, value in COLOURS.items():
        svg = svg.replace(value, f"var(--{colour})")
    return re.sub(r"\s*\n\s*", "\n", svg)


def _draw_loss(data: RunData) -> Plot | None:
    curves = _by_stage(data, "loss")
    if not curves:
        return None
    figure = _figure(240)
    for axes, (stage, curve) in _panels(figure, curves, "loss, nats per token"):
        _draw_noisy(axes, curve, stage)
    texts = [f"{stage_name(s)} from {c[0][1]:.2f} to {_trend(c)[-1][1]:.2f} nats per token" for s, c in curves.items()]
    return _plot(figure, f"Training loss: {'; '.join(texts)}.")


def _draw_bits_per_byte(data: RunData) -> Plot | None:
    series = [(code, curve) for code in ("all", *data.events.languages()) if (curve := data.events.bits_per_byte(code))]
    if not series:
        return None
    figure = _figure(240)
    axes = _axes(figure, (0.135, 0.085, 0.825, 0.61))
    colours = {"all": "ink"} | dict(zip(data.events.languages(), ("first", "second", "third"), strict=False))
    for code, curve in series:
        text = f"{language_name(code)} {curve[-1][1]:.2f}"
        _line(axes, curve, colours.get(code, "muted"), 1.8, label=text, marker="o", markersize=3)
    for (key, name), dashes in zip(BASELINES, _DASHES, strict=True):
        value = number(data.results.get("base"), "baselines", key, "all")
        if value is not None:
            axes.axhline(value, color=COLOURS["muted"], linewidth=1.2, dashes=dashes, label=f"{name} {value:.2f}")
    axes.margins(y=0.08)
    # The first column holds the model, the second its rivals.
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(0, 1.0),
        ncols=2,
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=2,
        columnspacing=1.5,
    )
    figure.text(0, 0.725, "bits per byte of held-out text", color=COLOURS["muted"])
    texts = [f"{language_name(code)} from {c[0][1]:.2f} to {c[-1][1]:.2f}" for code, c in series]
    return _plot(figure, f"Bits per byte of held-out text during the base training: {'; '.join(texts)}.")


def _draw_learning_rate(data: RunData) -> Plot | None:
    curves = _by_stage(data, "lr_factor")
    if not curves:
        return None
    figure = _figure(200)
    for axes, (stage, curve) in _panels(figure, curves, "learning rate, share of its peak"):
        _line(axes, _extremes(curve), stage, 1.8)
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(lambda share, _: percent(share, 0))
    texts = [f"{stage_name(s)} from {percent(c[0][1])} to {percent(c[-1][1])} of the peak" for s, c in curves.items()]
    return _plot(figure, f"Learning rate: {'; '.join(texts)}.")


def _draw_speed(data: RunData) -> Plot | None:
    curves = _by_stage(data, "tokens_per_second")
    if not curves:
        return None
    figure = _figure(200)
    for axes, (stage, curve) in _panels(figure, curves, "tokens per second"):
        _draw_noisy(axes, curve, stage)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda speed, _: count(speed))
    texts = [f"{stage_name(s)} {count(fsum(y for _, y in c) / len(c))} tokens per second" for s, c in curves.items()]
    return _plot(figure, f"Speed of training, on average: {'; '.join(texts)}.")


def _draw_time_per_stage(data: RunData) -> Plot | None:
    seconds = data.events.stage_seconds()
    if not seconds:
        return None
    height = 30 + 26 * len(seconds)
    figure = _figure(height)
    axes = _axes(figure, (0.235, 10 / height, 0.755, 1 - 20 / height))
    names = [stage_name(stage) for stage in seconds]
    colours = [COLOURS.get(stage, COLOURS["muted"]) for stage in seconds]
    places = range(len(seconds))
    axes.barh(places, list(seconds.values()), height=0.62, color=colours)
    longest = max(seconds.values()) or 1.0
    for place, value in zip(places, seconds.values(), strict=True):
        axes.text(value + 0.015 * longest, place, duration(value), va="center_baseline", color=COLOURS["ink"])
    axes.set_xlim(0, 1.33 * longest)  # room for the words behind the longest bar
    axes.set_xticks([])
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    texts = [f"{name} {duration(value)}" for name, value in zip(names, seconds.values(), strict=True)]
    return _plot(figure, f"Time per stage: {'; '.join(texts)}.")


PLOTS: dict[str, Callable[[RunData], Plot | None]] = {
    "loss": _draw_loss,
    "bits_per_byte": _draw_bits_per_byte,
    "learning_rate": _draw_learning_rate,
    "speed": _draw_speed,
    "time_per_stage": _draw_time_per_stage,
}


def _by_stage(data: RunData, metric: str) -> dict[str, Curve]:
    return {stage: curve for stage in _TRAINED if (curve := data.events.curve(stage, metric))}


def _figure(height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH / 72, height / 72))


def _axes(figure: Any, place: tuple[float, float, float, float], sharey: Any = None) -> Any:
    from matplotlib.ticker import MaxNLocator

    # Places are fixed, never fitted to the text: a font that measures differently moves nothing.
    axes = figure.add_axes(place, sharey=sharey)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLOURS["muted"])
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=COLOURS["muted"], pad=4)
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=min(6, max(3, round(9 * place[2]))), steps=[1, 2, 5, 10], integer=True, min_n_ticks=1)
    )
    axes.xaxis.set_major_formatter(lambda step, _: count(step))
    return axes


def _panels(figure: Any, curves: dict[str, Curve], unit: str) -> list[tuple[Any, tuple[str, Curve]]]:
    """One panel a stage, side by side over one vertical axis; each has its own steps."""
    left, right, gap = 0.135, 0.96, 0.05
    widths = [right - left] if len(curves) == 1 else [0.68 * (right - left - gap), 0.32 * (right - left - gap)]
    panels: list[tuple[Any, tuple[str, Curve]]] = []
    for (stage, curve), width in zip(curves.items(), widths, strict=True):
        axes = _axes(figure, (left, 0.1, width, 0.69), sharey=panels[0][0] if panels else None)
        axes.set_title(stage_name(stage), loc="left", fontsize=10, color=COLOURS[stage], pad=6)
        if panels:
            axes.tick_params(labelleft=False)
        panels.append((axes, (stage, curve)))
        left += width + gap
    figure.text(0, 0.94, f"{unit}, by step", color=COLOURS["muted"])
    return panels


def _draw_noisy(axes: Any, curve: Curve, colour: str) -> None:
    """Every step, faint, and the trend above it."""
    _line(axes, _extremes(curve), colour, 0.6, alpha=0.4)
    _line(axes, _trend(curve), colour, 1.8)


def _line(axes: Any, curve: Curve, colour: str, width: float, **style: Any) -> None:
    x, y = zip(*curve, strict=True)
    if len(curve) == 1:
        style["marker"] = "o"  # one point has no line
    axes.plot(x, y, color=COLOURS[colour], linewidth=width, **style)


def _buckets(curve: Curve, most: int) -> list[Curve]:
    edges = [round(i * len(curve) / most) for i in range(most + 1)] if len(curve) > most else range(len(curve) + 1)
    return [curve[a:b] for a, b in pairwise(edges)]


def _extremes(curve: Curve, most: int = 300) -> Curve:
    """At most two points a bucket, its lowest and its highest, so that a spike of one step stays visible."""
    thin: Curve = []
    for bucket in _buckets(curve, most):
        low, high = min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])
        thin += sorted({low, high})
    return thin


def _trend(curve: Curve, most: int = 150, reach: int = 2) -> Curve:
    """Means of buckets, then of neighbours; the neighbourhood shrinks at the ends, which therefore stay in place."""
    means = [(_mean([x for x, _ in bucket]), _mean([y for _, y in bucket])) for bucket in _buckets(curve, most)]
    last = len(means) - 1
    smooth: Curve = []
    for i, (x, _) in enumerate(means):
        near = min(reach, i, last - i)
        smooth.append((x, _mean([y for _, y in means[i - near : i + near + 1]])))
    return smooth


def _mean(values: Sequence[float]) -> float:
    return fsum(values) / len(values)  # exact, whatever the Python version sums with


def _plot(figure: Any, label: str) -> Plot:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", file.getvalue())
    attributes = f'role="img" aria-label="{escape(label)}" font-family="system-ui, sans-serif"'
    return Plot(svg.replace("<svg ", f"<svg {attributes} ", 1), label)
