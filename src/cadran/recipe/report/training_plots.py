"""The curves of a run as a whole: loss, bits per byte, learning rate, speed, and where the time went."""

from collections.abc import Callable
from math import fsum
from typing import Any

from cadran.recipe.report.data import RunData, number
from cadran.recipe.report.events import Curve
from cadran.recipe.report.order import TRAINED
from cadran.recipe.report.plots import (
    COLOURS,
    STAGE_COLOURS,
    Plot,
    draw_line,
    draw_noisy,
    extremes,
    finish,
    legend,
    new_axes,
    new_figure,
    trend,
)
from cadran.recipe.report.wording import count, duration, language_name, percent, stage_name

BASELINES = (
    ("kneser_ney_5", "Kneser-Ney 5-gram"),
    ("xz_given_training", "xz after training text"),
    ("xz_alone", "xz alone"),
)
_DASHES = ((5, 2), (1.5, 1.5), (6, 2, 1.5, 2))


def _draw_loss(data: RunData) -> Plot | None:
    curves = {stage: curve for stage in ("base", "sft") if (curve := data.events.curve(stage, "loss"))}
    if not curves or (list(curves) == ["sft"] and data.events.examinations("sft")):
        return None  # the later stages have drawings of their own, with the held-out loss in them
    figure, panels = _panels(curves, 240, "loss, nats per token")
    for axes, (stage, curve) in panels:
        draw_noisy(axes, curve, STAGE_COLOURS[stage])
    texts = [f"{stage_name(s)} from {c[0][1]:.2f} to {trend(c)[-1][1]:.2f} nats per token" for s, c in curves.items()]
    return finish(figure, f"Training loss: {'; '.join(texts)}.")


def _draw_bits_per_byte(data: RunData) -> Plot | None:
    series = [(code, curve) for code in ("all", *data.events.languages()) if (curve := data.events.bits_per_byte(code))]
    if not series:
        return None
    figure = new_figure(240)
    axes = new_axes(figure, (0.135, 0.085, 0.825, 0.61))
    colours = {"all": "ink"} | dict(zip(data.events.languages(), ("first", "second", "third"), strict=False))
    for code, curve in series:
        text = f"{language_name(code)} {curve[-1][1]:.2f}"
        draw_line(axes, curve, colours.get(code, "muted"), 1.8, label=text, marker="o", markersize=3)
    for (key, name), dashes in zip(BASELINES, _DASHES, strict=True):
        value = number(data.results.get("base"), "baselines", key, "all")
        if value is not None:
            axes.axhline(value, color=COLOURS["muted"], linewidth=1.2, dashes=dashes, label=f"{name} {value:.2f}")
    axes.margins(y=0.08)
    legend(figure, 2)  # the first column holds the model, the second its rivals
    figure.text(0, 0.725, "bits per byte of held-out text", color=COLOURS["muted"])
    texts = [f"{language_name(code)} from {c[0][1]:.2f} to {c[-1][1]:.2f}" for code, c in series]
    return finish(figure, f"Bits per byte of held-out text during the base training: {'; '.join(texts)}.")


def _draw_learning_rate(data: RunData) -> Plot | None:
    curves = _by_stage(data, "lr_factor")
    if not curves:
        return None
    figure, panels = _panels(curves, 200, "learning rate, share of its peak")
    for axes, (stage, curve) in panels:
        draw_line(axes, extremes(curve), STAGE_COLOURS[stage], 1.8)
        axes.set_ylim(0, 1.05)
        axes.yaxis.set_major_formatter(lambda share, _: percent(share, 0))
    texts = [f"{stage_name(s)} from {percent(c[0][1])} to {percent(c[-1][1])} of the peak" for s, c in curves.items()]
    return finish(figure, f"Learning rate: {'; '.join(texts)}.")


def _draw_speed(data: RunData) -> Plot | None:
    curves = _by_stage(data, "tokens_per_second")
    if not curves:
        return None
    figure, panels = _panels(curves, 200, "tokens per second")
    for axes, (stage, curve) in panels:
        draw_noisy(axes, curve, STAGE_COLOURS[stage])
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda speed, _: count(speed))
    texts = [f"{stage_name(s)} {count(fsum(y for _, y in c) / len(c))} tokens per second" for s, c in curves.items()]
    return finish(figure, f"Speed of training, on average: {'; '.join(texts)}.")


def _draw_time_per_stage(data: RunData) -> Plot | None:
    seconds = data.events.stage_seconds()
    if not seconds:
        return None
    height = 30 + 26 * len(seconds)
    figure = new_figure(height)
    names = [stage_name(stage) for stage in seconds]
    left = 0.235 if max(map(len, names)) <= 14 else 0.4
    axes = new_axes(figure, (left, 10 / height, 0.99 - left, 1 - 20 / height))
    colours = [COLOURS[STAGE_COLOURS.get(stage, "muted")] for stage in seconds]
    places = range(len(seconds))
    axes.barh(places, list(seconds.values()), height=0.62, color=colours)
    longest = max(seconds.values()) or 1.0
    for place, value in zip(places, seconds.values(), strict=True):
        axes.text(value + 0.015 * longest, place, duration(value), va="center_baseline", color=COLOURS["ink"])
    axes.set_xlim(0, (1.33 if left < 0.3 else 1.5) * longest)  # room for the words behind the longest bar
    axes.set_xticks([])
    axes.set_yticks(places, names)
    axes.tick_params(axis="y", labelcolor=COLOURS["ink"])
    axes.invert_yaxis()
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    texts = [f"{name} {duration(value)}" for name, value in zip(names, seconds.values(), strict=True)]
    return finish(figure, f"Time per stage: {'; '.join(texts)}.")


PLOTS: dict[str, Callable[[RunData], Plot | None]] = {
    "loss": _draw_loss,
    "bits_per_byte": _draw_bits_per_byte,
    "learning_rate": _draw_learning_rate,
    "speed": _draw_speed,
    "time_per_stage": _draw_time_per_stage,
}


def _by_stage(data: RunData, metric: str) -> dict[str, Curve]:
    return {stage: curve for stage in TRAINED if (curve := data.events.curve(stage, metric))}


def _panels(curves: dict[str, Curve], height: float, unit: str) -> tuple[Any, list[tuple[Any, tuple[str, Curve]]]]:
    """A drawing with one panel a stage, two in a row; each has its own steps.

    Base model and chat, alone, share the row by the weight of their work and one vertical axis; more stages are
    equal and each has its own, because what they do per token is not the same work.
    """
    alone = set(curves) <= {"base", "sft"}
    lines = -(-len(curves) // 2)
    unit_room, title_room, steps_room = 22, 22, 22
    tall = height - unit_room - title_room - steps_room if lines == 1 else 96
    whole = unit_room + lines * (title_room + tall + steps_room)
    left, right, gap = 0.135, 0.96, 0.05 if alone else 0.15
    widths = [right - left] if len(curves) == 1 else [share * (right - left - gap) for share in _shares(alone)]
    figure = new_figure(whole)
    panels: list[tuple[Any, tuple[str, Curve]]] = []
    for place, (stage, curve) in enumerate(curves.items()):
        line, column = divmod(place, 2)
        x = left + column * (widths[0] + gap)
        bottom = whole - unit_room - (line + 1) * (title_room + tall + steps_room) + steps_room
        shared = panels[0][0] if panels and alone else None
        axes = new_axes(figure, (x, bottom / whole, widths[column], tall / whole), sharey=shared)
        axes.set_title(stage_name(stage), loc="left", fontsize=10, color=COLOURS[STAGE_COLOURS[stage]], pad=6)
        axes.tick_params(labelleft=shared is None)
        panels.append((axes, (stage, curve)))
    figure.text(0, 1 - 14 / whole, f"{unit}, by step", color=COLOURS["muted"])
    return figure, panels


def _shares(alone: bool) -> tuple[float, float]:
    return (0.68, 0.32) if alone else (0.5, 0.5)
