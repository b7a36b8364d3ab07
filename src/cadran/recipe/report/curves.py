"""Which curves a stage of alignment has: what each is called, and from which figures of the events it is made.

The names of the figures are those that the objectives write into `events.jsonl`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log

from cadran.recipe.report.data import RunData
from cadran.recipe.report.events import Curve
from cadran.recipe.report.order import ALIGNED

LN2 = log(2)
OTHERS = 8
"""Held-out figures of a stage that belong to no curve below and are drawn alone; more are left to `events.jsonl`."""

_LONGEST_NAME = 60
_LOGISTIC = ("dpo", "sigmoid", "cdpo", "robust")


@dataclass(frozen=True, slots=True)
class Drawing:
    """One drawing of a stage.

    Attributes:
        name: in the file name, and in the tables of healthy and of unhealthy curves.
        title: over it.
        unit: over its vertical axis.
        lines: (figure of the step events, what the line is called beside the others, colour).
        held_out: names under which examinations give the first line's figure, besides its own.
        share: the figures are shares of 1, written as percentages.
        mark: (height, name) of a dashed line that one looks for.
        examined: only examinations have it.
    """

    name: str
    title: str
    unit: str
    lines: tuple[tuple[str, str, str], ...]
    held_out: tuple[str, ...] = ()
    share: bool = False
    mark: tuple[float, str] | None = None
    examined: bool = False


def _single(name: str, title: str, unit: str, *held_out: str, share: bool = False) -> Drawing:
    return Drawing(name, title, unit, ((name, "training", ""),), held_out, share)


def _pair(name: str, title: str, unit: str, figure: str) -> Drawing:
    return Drawing(
        name, title, unit, ((f"chosen_{figure}", "chosen", "base"), (f"rejected_{figure}", "rejected", "second"))
    )


DRAWINGS = (
    _single("loss", "Loss", "loss"),
    _single("accuracy", "Pairs ranked right", "share of pairs", "pair_accuracy", share=True),
    _single("margin", "Margin", "chosen reward minus rejected reward"),
    _pair("logprobs", "Log-probabilities of the answers", "log-probability, nats", "logprob"),
    _pair("rewards", "Rewards of the answers", "reward", "reward"),
    _single("reward", "Reward", "mean reward of an answer"),
    _single("success", "Success", "share of right answers", "exact", "success_rate", share=True),
    _single("kl", "KL to the reference", "KL divergence, nats per answer"),
    _single("entropy", "Entropy", "entropy of a token, nats"),
    _single("length", "Length of the answers", "tokens"),
    _single("zero_variance_share", "Groups without variance", "share of groups", share=True),
    _single("clipped_share", "Clipped tokens", "share of tokens", share=True),
    _single("truncated_share", "Cut answers", "share of answers", share=True),
    _single("ratio", "Importance ratio", "probability now over probability when drawn"),
    _single("mismatch", "Mismatch of sampler and trainer", "mean difference of log-probabilities, nats"),
    _single("value_loss", "Value loss", "loss of the critic"),
    _single("kl_coefficient", "KL coefficient", "weight of the KL in the reward"),
)

NAMES = tuple(
    f"{stage}_{name}"
    for stage in ALIGNED
    for name in [*(d.name for d in DRAWINGS), *(f"held_out_{place + 1}" for place in range(OTHERS)), "calibration"]
)
"""Every name that a drawing of a stage can have: whatever the events hold, no other file is written."""


def drawings(data: RunData, stage: str) -> Iterator[Drawing]:
    """The drawings for which a stage has events, held-out figures without a drawing of their own last.

    The curves of SFT stand with those of the whole run, so it has drawings here only where something was held out.
    """
    known = {name for drawing in DRAWINGS for name in _known(drawing)}
    for drawing in DRAWINGS:
        trained = stage != "sft" and any(data.events.curve(stage, figure) for figure, _, _ in drawing.lines)
        if trained or held_out(data, stage, drawing):
            yield _marked(data, stage, drawing)
    # Clock times are told with the cost; drawn here, they would make a file that no repetition reproduces.
    others = [name for name in data.events.held_out(stage) if name not in known and "second" not in name]
    for place, name in enumerate(others[:OTHERS]):
        said = name.replace("_", " ")[:_LONGEST_NAME]
        yield Drawing(f"held_out_{place + 1}", f"Held out: {said}", said, ((name, "held out", ""),), examined=True)


def held_out(data: RunData, stage: str, drawing: Drawing) -> dict[str, Curve]:
    """Held-out curves that belong into a drawing, by the figure of their line."""
    given = data.events.held_out(stage)
    curves = {}
    for place, (figure, _, _) in enumerate(drawing.lines):
        names = (figure, f"held_out_{figure}", *(drawing.held_out if place == 0 else ()))
        found = [given[name] for name in names if name in given]
        if found:
            curves[figure] = found[0]
    return curves


def logistic(data: RunData, stage: str) -> bool:
    """Whether a stage's loss begins at ln 2, as far as its results or its recipe tell; without a word, it does."""
    kind, weight = data.setting(stage, "loss_kind", "kind", "loss"), data.setting(stage, "sft_weight")
    alone = not isinstance(weight, int | float) or weight == 0  # with a share of another loss it begins elsewhere
    return alone and (not isinstance(kind, str) or kind in _LOGISTIC)


def kl_target(data: RunData, stage: str) -> float | None:
    """The KL that a stage was asked to stay within, None when it was asked nothing."""
    target = data.setting(stage, "kl_target", "target_kl")
    return float(target) if isinstance(target, int | float) and 0 < target < 1e6 else None


def _known(drawing: Drawing) -> Iterator[str]:
    for figure, _, _ in drawing.lines:
        yield from (figure, f"held_out_{figure}")
    yield from drawing.held_out


def _marked(data: RunData, stage: str, drawing: Drawing) -> Drawing:
    """The drawing as it is for this stage: with its dashed line, and called what it is there."""
    if drawing.name == "kl" and stage == "dpo":
        unit = "log policy minus log reference, nats per answer"
        return replace(drawing, title="Chosen answers against the reference", unit=unit)
    mark: tuple[float, str] | None = None
    if drawing.name == "loss" and stage in ("reward", "dpo") and logistic(data, stage):
        mark = (LN2, "ln 2")
    elif drawing.name == "accuracy":
        mark = (0.5, "a coin")
    elif drawing.name == "ratio":
        mark = (1.0, "equal")
    elif drawing.name == "kl" and (target := kl_target(data, stage)) is not None:
        mark = (target, "target")
    elif drawing.name == "rewards" and stage == "dpo":
        mark = (0.0, "reference")
    return replace(drawing, mark=mark)
