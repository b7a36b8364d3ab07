"""What the page says of each alignment stage: its figures, its drawings, and what those drawings mean."""

from typing import Any

from cadran.recipe.report.comparison import change
from cadran.recipe.report.curves import drawings, logistic
from cadran.recipe.report.data import Record, RunData, branch, dig, number
from cadran.recipe.report.healthy import healthy
from cadran.recipe.report.observations import observation
from cadran.recipe.report.order import ALIGNED
from cadran.recipe.report.wording import count, decimal, percent, plain

_ABOUT = {
    "sft": "It learns to answer from examples of answers: the loss counts only what the assistant says.",
    "reward": "It learns which of two answers people prefer, and gives every answer a number.",
    "dpo": "It learns from pairs of answers, directly: the better one becomes more likely than the worse one, by the "
    "measure of the model it began as, its reference.",
    "kto": "It learns from answers that are good or bad on their own: the good become likelier than its reference had "
    "them, the bad less.",
    "ppo": "It writes answers, has them graded, and makes the good ones likelier, while a critic guesses the grade in "
    "advance and the KL ties it to its reference.",
    "grpo": "It writes several answers to each question and makes those likelier that were graded above their group.",
    "distil": "It learns to predict what a larger model predicts.",
}
_SHORT = {
    "sft": "SFT",
    "reward": "Reward",
    "dpo": "DPO",
    "kto": "KTO",
    "ppo": "PPO",
    "grpo": "GRPO",
    "distil": "Distilled",
}
_HEADLINES = (("success", "right answers"), ("held_out_loss", "held-out loss"), ("accuracy", "pairs right"))
_TILES = (("held_out_loss", "Held-out loss"), ("success", "Right answers"), ("reward", "Reward"))


def panels(data: RunData) -> list[Record]:
    """One entry per alignment stage that has a figure, a table or a drawing.

    Returns:
        Each with ``stage``, ``about``, ``tiles`` (name, value, note), ``kinds`` (pairs by kind: cells of a table),
        ``columns`` of that table, and ``curves`` (name of the plot, title, healthy line, observation or "").
    """
    found = []
    for stage in ALIGNED:
        result = data.results.get(stage, {})
        curves = [
            (f"{stage}_{drawing.name}", drawing.title, _healthy(data, stage, drawing.name), said)
            for drawing in drawings(data, stage)
            for said in [observation(data, stage, drawing)]
        ]
        columns, kinds = _kinds(result)
        tiles = _tiles(stage, result) if stage != "sft" else []
        calibrated = bool(result.get("calibration"))
        if curves or kinds or tiles:
            if calibrated:
                curves.append((f"{stage}_calibration", "Calibration", healthy("calibration"), ""))
            found.append(
                {
                    "stage": stage,
                    "about": _ABOUT[stage],
                    "tiles": tiles,
                    "columns": columns,
                    "kinds": kinds,
                    "curves": curves,
                }
            )
    return found


def headlines(data: RunData) -> list[tuple[str, str, str]]:
    """What the alignment stages changed, as (name, value, what to know about it): one figure a stage at most."""
    found = []
    for stage in ALIGNED:
        result = data.results.get(stage, {})
        for name, title in (
            ("success", "right answers"),
            ("held_out_loss", "held-out loss"),
            ("accuracy", "pairs right"),
        ):
            if changed := change(result, name):
                found.append(_changed(f"{_SHORT[stage]}: {title}", changed))
                break
    return found


def _healthy(data: RunData, stage: str, name: str) -> str:
    if name.startswith("held_out_"):
        return healthy("held_out")
    return healthy("loss_other" if name == "loss" and stage == "dpo" and not logistic(data, stage) else name, stage)


def _tiles(stage: str, result: Record) -> list[tuple[str, str, str]]:
    """The stage's own headline figures, each as (name, value, what to know about it)."""
    tiles = []
    accuracy = number(result, "accuracy")
    if accuracy is not None:
        held_out = number(result, "pairs", "held_out")
        of = f" {count(held_out)} held-out pairs" if held_out is not None else ""
        tiles.append(("Pairs ranked right", percent(accuracy), f"{_interval(result)}{of}".strip(" ,")))
    elif ranked := change(result, "accuracy"):
        tiles.append(_changed("Pairs ranked right", ranked))
    for name, title in _TILES:
        if changed := change(result, name):
            tiles.append(_changed(title, changed))
    reward = branch(result, "reward")
    if (rewarded := number(reward, "accuracy")) is not None:
        tiles.append(("Moved the right way", percent(rewarded), f"{_interval(reward)} by implicit reward".strip(" ,")))
    chosen, rejected = number(result, "kl", "chosen"), number(result, "kl", "rejected")
    if chosen is not None and rejected is not None:
        tiles.append(("Chosen against reference", plain(chosen), f"nats per answer; rejected: {plain(rejected)}"))
    elif (kl := number(result, "kl")) is not None:
        tiles.append(("KL to the reference", plain(kl), "nats per answer, on average"))
    if (error := number(result, "calibration_error")) is not None:
        tiles.append(("Calibration error", percent(error), "mean distance of foretold and observed"))
    if (steps := number(result, "steps")) is not None:
        tokens = number(result, "tokens")
        tiles.append(("Steps", count(steps), f"{count(tokens)} tokens" if tokens is not None else ""))
    mean, std = number(result, "mean"), number(result, "std")
    if stage == "reward" and mean is not None and std is not None:
        tiles.append(("Scores", f"{plain(mean)} ± {plain(std)}", "mean and spread, before they are brought to 0 and 1"))
    return tiles


def _changed(title: str, measure: Record) -> tuple[str, str, str]:
    (before, *_), (after, interval, _) = measure["cells"]
    notes = [f"before: {before}", *([f"95\N{NO-BREAK SPACE}% interval {interval}"] if interval else [])]
    notes += [measure["hint"]] if measure["hint"] else []
    return title, after, "; ".join(notes)


def _interval(result: Record) -> str:
    interval: Any = dig(result, "interval")
    low, high = interval if isinstance(interval, list) and len(interval) == 2 else (None, None)
    ends = number({"low": low}, "low"), number({"high": high}, "high")
    return (
        ""
        if ends[0] is None or ends[1] is None
        else f"95\N{NO-BREAK SPACE}% interval {decimal(100 * ends[0], 1)} to {decimal(100 * ends[1], 1)},"
    )


def _kinds(result: Record) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Pairs by kind as a table: (columns, rows of name and cells); empty when there is but one kind."""
    kinds = branch(result, "by_kind")
    wanted = (("before", "Before"), ("after", "After"), ("accuracy", "Ranked right"), ("pairs", "Pairs"))
    present = [(key, name) for key, name in wanted if any(number(kinds, kind, key) is not None for kind in kinds)]
    if not present:
        return [], []
    lines = []
    for kind in sorted(kinds):
        values = [(key, number(kinds, kind, key)) for key, _ in present]
        cells = ["–" if v is None else count(v) if key == "pairs" else percent(v) for key, v in values]
        lines.append((kind.replace("_", " "), cells))
    return [name for _, name in present], lines
