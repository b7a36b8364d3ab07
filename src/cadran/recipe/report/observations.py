"""What a run's own curves say when they are not healthy: simple rules, each with its figures in the sentence.

A rule compares the beginning of a curve (mean of its first tenth) with its end (mean of its last tenth), so that one
noisy step says nothing. A curve of fewer than ``_FEWEST`` steps is too short to be judged by its trend.
"""

from collections.abc import Callable

from cadran.recipe.report.curves import DRAWINGS, LN2, Drawing, held_out, kl_target, logistic
from cadran.recipe.report.data import RunData, number
from cadran.recipe.report.events import Curve
from cadran.recipe.report.plots import beginning, ending
from cadran.recipe.report.wording import count, percent, plain

Rule = Callable[[RunData, str], str | None]

_FEWEST = 30

# Where a curve stops being healthy. They are rules of thumb: wide enough to keep silent about ordinary noise.
_FIRST_LOSS = 0.05  # from ln 2: what the training itself lets bf16 get away with
_BY_HEART = 0.98  # pairs ranked right in training...
_APART = 0.15  # ...while the held-out share is this much lower
_COIN = 0.55
_CHOSEN_FALL = 0.5  # of the log-probability at the start, which is its length times its nats per token
_TURNED = 0.02  # held-out loss above its lowest, as a share of it
_OVER_TARGET = 1.5
_NEGATIVE_KL = -0.05
_ENTROPY_LEFT = 0.1
_LENGTH_GROWTH, _LENGTH_LEFT = 2.0, 0.25
_SAME_REWARD = 0.8
_CLIPPED = 0.3
_CUT = 0.2
_FIRST_RATIO, _LAST_RATIO = 0.01, 0.2
_MISMATCH = 0.1
_COEFFICIENT = 10.0


def observation(data: RunData, stage: str, drawing: Drawing) -> str:
    """What is wrong with a curve, in a sentence with its figures; "" when no rule finds anything."""
    for rule in RULES.get(drawing.name, ()):
        said = rule(data, stage)
        if said:
            return said
    return ""


def _long(data: RunData, stage: str, figure: str) -> Curve:
    """The curve of a figure; empty when it is too short to have a trend."""
    curve = data.events.curve(stage, figure)
    return curve if len(curve) >= _FEWEST else []


def _examined(data: RunData, stage: str, name: str) -> Curve:
    drawing = next(drawing for drawing in DRAWINGS if drawing.name == name)
    return held_out(data, stage, drawing).get(drawing.lines[0][0], [])


def _first_loss(data: RunData, stage: str) -> str | None:
    curve = data.events.curve(stage, "loss")
    if stage != "dpo" or not logistic(data, stage) or not curve or curve[0][0] > 1:
        return None
    first = curve[0][1]
    if abs(first - LN2) <= _FIRST_LOSS:
        return None
    return (
        f"The first loss is {first:.3f} and not 0.693: policy and reference were not the same model when the training "
        "began (other weights, another number type, or dropout)."
    )


def _pair_loss(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "loss")
    if stage not in ("reward", "dpo") or not curve or ending(curve) <= beginning(curve):
        return None
    return (
        f"It ended higher ({ending(curve):.3f}) than it began ({beginning(curve):.3f}): lower the rate, or look at "
        "the pairs."
    )


def _turned_up(data: RunData, stage: str) -> str | None:
    curve = _examined(data, stage, "loss")
    if stage in ("ppo", "grpo") or len(curve) < 3:
        return None
    step, lowest = min(curve, key=lambda point: point[1])
    last = curve[-1][1]
    if last - lowest <= _TURNED * abs(lowest):
        return None
    return (
        f"The held-out loss was lowest at step {count(step)} ({lowest:.3f}) and ended at {last:.3f}: what came after "
        "was learnt by heart."
    )


def _ranking(data: RunData, stage: str) -> str | None:
    curve, examined = _long(data, stage, "accuracy"), _examined(data, stage, "accuracy")
    if not curve:
        return None
    # DPO counts its training pairs by implicit reward; only its results hold the same of the held-out ones.
    last = examined[-1][1] if examined and stage != "dpo" else number(data.results.get(stage), "reward", "accuracy")
    end = ending(curve)
    if last is not None and end >= _BY_HEART and end - last > _APART:
        return (
            f"{percent(end)} of the pairs in training, {percent(last)} of those held out: they were learnt "
            "by heart. Fewer steps or more pairs help."
        )
    if end < _COIN:
        return f"{percent(end)} at the end is hardly more than a coin’s toss: nothing was learnt from these pairs."
    return None


def _margin(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "margin")
    if not curve or ending(curve) > max(0.0, beginning(curve)):
        return None
    return (
        f"It did not grow (from {plain(beginning(curve))} to {plain(ending(curve))}): the two answers are not being "
        "told apart."
    )


def _chosen_fell(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "chosen_logprob")
    if not curve:
        return None
    start, end = beginning(curve), ending(curve)
    if start >= 0 or start - end <= _CHOSEN_FALL * -start:
        return None
    return (
        f"The chosen answers themselves became much less likely: from {plain(start)} to {plain(end)} nats, so each of "
        f"their tokens costs {percent((start - end) / -start, 0)} more than before. Lower the rate, raise β, or add a "
        "share of the SFT loss."
    )


def _gap_closed(data: RunData, stage: str) -> str | None:
    chosen, rejected = _long(data, stage, "chosen_logprob"), _long(data, stage, "rejected_logprob")
    if not chosen or not rejected:
        return None
    before, after = beginning(chosen) - beginning(rejected), ending(chosen) - ending(rejected)
    if after > before:
        return None
    return f"The gap between the two did not grow (from {plain(before)} to {plain(after)} nats)."


def _no_rise(figure: str) -> Rule:
    def rule(data: RunData, stage: str) -> str | None:
        curve = _long(data, stage, figure)
        if not curve or ending(curve) > beginning(curve):
            return None
        return f"It has not risen: {plain(beginning(curve))} at the beginning, {plain(ending(curve))} at the end."

    return rule


def _kl(data: RunData, stage: str) -> str | None:
    curve, target = _long(data, stage, "kl"), kl_target(data, stage)
    if not curve:
        return None
    end = ending(curve)
    if target is not None and end > _OVER_TARGET * target:
        return (
            f"It ended at {plain(end)} nats, above its target of {plain(target)}: lower the rate, or raise the "
            "coefficient."
        )
    if end < _NEGATIVE_KL:
        return (
            f"It ended below 0 ({plain(end)} nats), which no true divergence does: the sampler does not draw from the "
            "model that is being trained."
        )
    return None


def _entropy(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "entropy")
    if not curve or ending(curve) >= _ENTROPY_LEFT * beginning(curve):
        return None
    return (
        f"It collapsed from {plain(beginning(curve))} to {plain(ending(curve))} nats: the model has stopped "
        "trying anything else. Lower the rate, draw at a higher temperature, or widen the upper clip."
    )


def _length(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "length")
    if not curve or beginning(curve) <= 0:
        return None
    start, end = beginning(curve), ending(curve)
    if end > _LENGTH_GROWTH * start:
        return (
            f"The answers grew from {plain(start)} to {plain(end)} tokens: check that the reward does not pay "
            "for length."
        )
    if end < _LENGTH_LEFT * start:
        return f"The answers shrank from {plain(start)} to {plain(end)} tokens: check that they still say something."
    return None


def _above(figure: str, limit: float, sentence: str) -> Rule:
    def rule(data: RunData, stage: str) -> str | None:
        curve = _long(data, stage, figure)
        return None if not curve or ending(curve) <= limit else sentence.format(share=percent(ending(curve), 0))

    return rule


def _ratio(data: RunData, stage: str) -> str | None:
    curve = data.events.curve(stage, "ratio")
    if curve and curve[0][0] <= 1 and abs(curve[0][1] - 1) > _FIRST_RATIO:
        return (
            f"It began at {curve[0][1]:.3f} and not at 1: what drew the answers and what trains on them "
            "are not the same "
            "model (temperature, number type, or stale weights)."
        )
    if len(curve) >= _FEWEST and abs(ending(curve) - 1) > _LAST_RATIO:
        return f"It ended at {ending(curve):.2f}, far from 1: each rollout is used for too many or too large updates."
    return None


def _mismatch(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "mismatch")
    if not curve or ending(curve) <= _MISMATCH:
        return None
    return (
        f"{plain(ending(curve))} nats at the end is more than rounding: use the importance correction, or the "
        "same number type."
    )


def _value_loss(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "value_loss")
    if not curve or ending(curve) <= 2 * beginning(curve):
        return None
    return f"It grew from {plain(beginning(curve))} to {plain(ending(curve))}: the critic has lost sight of the reward."


def _coefficient(data: RunData, stage: str) -> str | None:
    curve = _long(data, stage, "kl_coefficient")
    if not curve or beginning(curve) <= 0 or ending(curve) <= _COEFFICIENT * beginning(curve):
        return None
    return (
        f"It rose from {plain(beginning(curve))} to {plain(ending(curve))} and the KL would still not be held: "
        "lower the rate."
    )


RULES: dict[str, tuple[Rule, ...]] = {
    "loss": (_first_loss, _turned_up, _pair_loss),
    "accuracy": (_ranking,),
    "margin": (_margin,),
    "logprobs": (_chosen_fell, _gap_closed),
    "reward": (_no_rise("reward"),),
    "success": (_no_rise("success"),),
    "kl": (_kl,),
    "entropy": (_entropy,),
    "length": (_length,),
    "zero_variance_share": (
        _above(
            "zero_variance_share",
            _SAME_REWARD,
            "In {share} of the groups all answers earned the same: the task is too easy or too hard for "
            "this model, and "
            "most of what it writes teaches nothing.",
        ),
    ),
    "clipped_share": (
        _above("clipped_share", _CLIPPED, "{share} of the tokens are clipped at the end: lower the rate."),
    ),
    "truncated_share": (
        _above(
            "truncated_share",
            _CUT,
            "{share} of the answers are cut at the end: allow longer ones, or leave the cut ones out of the loss.",
        ),
    ),
    "ratio": (_ratio,),
    "mismatch": (_mismatch,),
    "value_loss": (_value_loss,),
    "kl_coefficient": (_coefficient,),
}
"""By name of the drawing; the first rule that finds something speaks."""
