"""What every drawing of the report is made with: equal data gives equal bytes, so most are artefacts like any other.

matplotlib draws; its defaults are restored first, so that a reader's own settings change nothing. Colours are those
of the light page. `embed` turns each into the variable of the same name, and the page's style sheet does the rest.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import fsum
from typing import Any

from cadran.recipe.report.events import Curve
from cadran.recipe.report.wording import count

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
STAGE_COLOURS = {
    "base": "base",
    "sft": "sft",
    "reward": "third",
    "dpo": "first",
    "kto": "first",
    "ppo": "second",
    "grpo": "second",
    "distil": "third",
}
"""Names in ``COLOURS``; two stages that share one never share a drawing's panel."""

_WIDTH = 330  # user units; text of 10 stays readable when a telephone shrinks the drawing


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and, for those who do not see it, a sentence with its figures."""

    svg: str
    label: str


@contextmanager
def drawing_style() -> Iterator[None]:
    """Within it, matplotlib draws as the report wants it; without it, as the reader does."""
    import matplotlib

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
        yield


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


def new_figure(height: float) -> Any:
    """An empty drawing, ``height`` user units high and as wide as all the others."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH / 72, height / 72))


def new_axes(figure: Any, place: tuple[float, float, float, float], sharey: Any = None) -> Any:
    """Axes with whole steps below and a quiet grid, at (left, bottom, width, height) in shares of the drawing."""
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


def draw_noisy(axes: Any, curve: Curve, colour: str, label: str = "", *, steady: bool = False) -> None:
    """Every step, faint, and the trend above it."""
    reach = 2 + min(len(curve), 150) // 30 if steady else 2
    draw_line(axes, extremes(curve), colour, 0.6, alpha=0.4)
    draw_line(axes, trend(curve, reach=reach, steady=steady), colour, 1.8, label=label)


def draw_line(axes: Any, curve: Curve, colour: str, width: float, **style: Any) -> None:
    """One line through all points, in a colour of ``COLOURS``; a single point becomes a dot."""
    x, y = zip(*curve, strict=True)
    if len(curve) == 1:
        style["marker"] = "o"  # one point has no line
    axes.plot(x, y, color=COLOURS[colour], linewidth=width, **style)


def _buckets(curve: Curve, most: int) -> list[Curve]:
    edges = [round(i * len(curve) / most) for i in range(most + 1)] if len(curve) > most else range(len(curve) + 1)
    return [curve[a:b] for a, b in pairwise(edges)]


def extremes(curve: Curve, most: int = 300) -> Curve:
    """At most two points a bucket, its lowest and its highest, so that a spike of one step stays visible."""
    thin: Curve = []
    for bucket in _buckets(curve, most):
        low, high = min(bucket, key=lambda point: point[1]), max(bucket, key=lambda point: point[1])
        thin += sorted({low, high})
    return thin


def trend(curve: Curve, most: int = 150, reach: int = 2, *, steady: bool = False) -> Curve:
    """Means of buckets, then of neighbours.

    Args:
        curve: of any length but 0.
        most: buckets.
        reach: neighbours on each side.
        steady: keep the whole neighbourhood at the ends, which then say what the last steps have in common; without
            it the neighbourhood shrinks there, and the ends stay where they are.
    """
    means = [(mean([x for x, _ in bucket]), mean([y for _, y in bucket])) for bucket in _buckets(curve, most)]
    last = len(means) - 1
    smooth: Curve = []
    for i, (x, _) in enumerate(means):
        near = reach if steady else min(reach, i, last - i)
        smooth.append((x, mean([y for _, y in means[max(0, i - near) : i + near + 1]])))
    return smooth


def mean(values: Sequence[float]) -> float:
    """The mean, summed exactly, whatever the Python version sums with."""
    return fsum(values) / len(values)


def beginning(curve: Curve) -> float:
    """Mean of the first tenth of the steps."""
    return mean([value for _, value in curve[: max(1, len(curve) // 10)]])


def ending(curve: Curve) -> float:
    """Mean of the last tenth of the steps."""
    return mean([value for _, value in curve[-max(1, len(curve) // 10) :]])


def legend(figure: Any, columns: int, **where: Any) -> None:
    """What each line is called, above the axes, from the left edge of the drawing."""
    style = {"frameon": False, "borderpad": 0, "borderaxespad": 0, "handlelength": 2, "columnspacing": 1.5}
    figure.legend(loc="upper left", bbox_to_anchor=(0, 1.0), ncols=columns, **style, **where)


def finish(figure: Any, label: str) -> Plot:
    """The drawing as SVG without dates or names of programs, with its sentence for those who do not see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", file.getvalue())
    attributes = f'role="img" aria-label="{escape(label)}" font-family="system-ui, sans-serif"'
    return Plot(svg.replace("<svg ", f"<svg {attributes} ", 1), label)
