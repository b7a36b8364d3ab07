"""An unhealthy curve is told so, a healthy one is not, and what belongs to a run follows from its recipe."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cadran.recipe.report.data import RunData, gather
from cadran.recipe.report.order import ORDER, expected
from cadran.recipe.report.panels import panels

STEPS = 40

Event = dict[str, Any]
Figures = dict[str, float]


def dpo(step: int) -> Figures:
    t = step / STEPS
    rewards = {"chosen_reward": -0.2 * t, "rejected_reward": -2 * t, "margin": 1.8 * t}
    logprobs = {"chosen_logprob": -40 - 2 * t, "rejected_logprob": -42 - 20 * t}
    return {"loss": math.log(2) * math.exp(1 / STEPS - t), "accuracy": 0.6 + 0.3 * t, "kl": t} | rewards | logprobs


def grpo(step: int) -> Figures:
    t = step / STEPS
    shares = {"zero_variance_share": 0.3, "clipped_share": 0.02, "truncated_share": 0.01}
    model = {"kl": 0.1 * t, "entropy": 2 - t, "length": 10 + t, "ratio": 1.0, "mismatch": 0.001}
    return {"loss": 0.001, "reward": t, "success": 0.1 + 0.6 * t} | shares | model


def ppo(step: int) -> Figures:
    return {**grpo(step), "value_loss": 1 - 0.5 * step / STEPS, "kl_coefficient": 0.2}


GOOD: dict[str, Callable[[int], Figures]] = {"dpo": dpo, "grpo": grpo, "ppo": ppo}


def training(stage: str, figures: Callable[[int], Figures]) -> list[Event]:
    return [{"stage": stage, "kind": "step", "step": step} | figures(step) for step in range(1, STEPS + 1)]


def run_of(folder: Path, events: list[Event], recipe: str = "start: m\nppo: {kl_target: 2}\n") -> RunData:
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return gather(folder)


def said(folder: Path, events: list[Event]) -> dict[str, str]:
    """What is said of each curve of a run with one stage, by the name of its drawing; "" for a healthy one."""
    (panel,) = panels(run_of(folder, events))
    return {name: sentence.replace("\N{NO-BREAK SPACE}", " ") for name, _, _, sentence in panel["curves"]}


@pytest.mark.parametrize("stage", GOOD)
def test_a_healthy_stage_is_told_nothing(tmp_path: Path, stage: str) -> None:
    told = said(tmp_path, training(stage, GOOD[stage]))
    assert len(told) >= 6 and not any(told.values())


@pytest.mark.parametrize(
    ("stage", "figure", "curve", "words"),
    [
        ("dpo", "loss", lambda t: 0.9 - t / 10, "The first loss is 0.898 and not 0.693"),
        ("dpo", "loss", lambda t: 0.675 + t, "It ended higher"),
        ("dpo", "accuracy", lambda t: 0.5, "50.0 % at the end is hardly more than a coin"),
        ("dpo", "margin", lambda t: -t, "It did not grow"),
        ("dpo", "chosen_logprob", lambda t: -40 * (1 + t), "so each of their tokens costs 85 % more"),
        ("dpo", "rejected_logprob", lambda t: -42.0, "The gap between the two did not grow"),
        ("grpo", "reward", lambda t: 1 - t, "It has not risen"),
        ("grpo", "success", lambda t: 0.1, "It has not risen"),
        ("grpo", "kl", lambda t: -t, "which no true divergence does"),
        ("ppo", "kl", lambda t: 9 * t, "above its target of 2"),
        ("grpo", "entropy", lambda t: 2 * math.exp(-5 * t), "It collapsed from"),
        ("grpo", "length", lambda t: 10 + 40 * t, "check that the reward does not pay for length"),
        ("grpo", "length", lambda t: 20 - 19 * t, "The answers shrank"),
        ("grpo", "zero_variance_share", lambda t: 0.95, "In 95 % of the groups all answers earned the same"),
        ("grpo", "clipped_share", lambda t: 0.5, "50 % of the tokens are clipped"),
        ("grpo", "truncated_share", lambda t: 0.4, "40 % of the answers are cut"),
        ("grpo", "ratio", lambda t: 1.1, "It began at 1.100 and not at 1"),
        ("grpo", "ratio", lambda t: 1 + t * t, "far from 1"),
        ("grpo", "mismatch", lambda t: t, "more than rounding"),
        ("ppo", "value_loss", lambda t: 0.1 + t, "lost sight of the reward"),
        ("ppo", "kl_coefficient", lambda t: 0.2 * math.exp(5 * t), "the KL would still not be held"),
    ],
)
def test_an_unhealthy_curve_is_told_so_and_no_other(
    tmp_path: Path, stage: str, figure: str, curve: Callable[[float], float], words: str
) -> None:
    events = training(stage, lambda step: GOOD[stage](step) | {figure: curve(step / STEPS)})
    found = [sentence for sentence in said(tmp_path, events).values() if sentence]
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(("held_out", "told"), [(0.6, True), (0.97, False)])
def test_pairs_known_by_heart_are_told_by_the_held_out_ones(tmp_path: Path, held_out: float, told: bool) -> None:
    events = training("reward", lambda step: dpo(step) | {"accuracy": 1.0})
    events.append({"stage": "reward", "kind": "examination", "step": STEPS, "figures": {"accuracy": held_out}})
    assert ("by heart" in said(tmp_path, events)["reward_accuracy"]) == told


def test_dpo_s_held_out_pairs_are_compared_by_the_reward_that_its_training_counts(tmp_path: Path) -> None:
    events = training("dpo", lambda step: dpo(step) | {"accuracy": 1.0})
    events.append({"stage": "dpo", "kind": "examination", "step": STEPS, "figures": {"accuracy": 0.6}})
    assert not said(tmp_path, events)["dpo_accuracy"]
    (tmp_path / "dpo").mkdir()
    (tmp_path / "dpo/results.json").write_text('{"reward": {"accuracy": 0.6}}', encoding="utf-8")
    assert "60.0 % of those held out: they were learnt by heart" in said(tmp_path, events)["dpo_accuracy"]


@pytest.mark.parametrize(("last", "told"), [(1.9, "lowest at step 20 (1.500) and ended at 1.900"), (1.51, "")])
def test_held_out_loss_that_turns_up_is_called_learning_by_heart(tmp_path: Path, last: float, told: str) -> None:
    examined = [
        {"stage": "sft", "kind": "examination", "step": step, "figures": {"held_out_loss": loss}}
        for step, loss in ((0, 2.0), (20, 1.5), (STEPS, last))
    ]
    events = training("sft", lambda step: {"loss": 2 - step / STEPS}) + examined
    sentence = said(tmp_path, events)["sft_loss"]
    assert told in sentence and bool(sentence) == bool(told)


@pytest.mark.parametrize(
    ("loss", "logistic"),
    [("ipo", False), ("dpo", True), ("cdpo", True), ("hinge", False), ("dpo, sft_weight: 0.1", False)],
)
def test_only_losses_of_the_logistic_family_must_begin_at_ln_2(tmp_path: Path, loss: str, logistic: bool) -> None:
    events = training("dpo", lambda step: dpo(step) | {"loss": 25.0 - step / STEPS})
    (panel,) = panels(run_of(tmp_path, events, f"start: m\ndpo: {{loss: {loss}}}\n"))
    _, _, line, sentence = panel["curves"][0]
    assert ("not 0.693" in sentence) == logistic
    assert ("begins at 0.693" in line) == logistic


def test_a_few_steps_are_no_trend(tmp_path: Path) -> None:
    events = training("grpo", lambda step: grpo(step) | {"reward": -step, "zero_variance_share": 1.0})
    assert not any(said(tmp_path, events[:29]).values())


@pytest.mark.parametrize(
    ("recipe", "begun", "stages"),
    [
        ({}, (), ("corpus", "tokenizer", "base", "sft")),
        (None, ("dpo",), ("corpus", "tokenizer", "base", "sft", "dpo")),
        ({"dpo": {}, "int8": {}}, (), ("corpus", "tokenizer", "base", "sft", "dpo", "int8")),
        ({"start": "smollm2", "tokenizer": {}, "base": {}, "corpus": None, "sft": {}}, (), ("sft",)),
        ({"start": "smollm2", "sft": None, "grpo": {}}, ("sft",), ("sft", "grpo")),
        ({"sft": None, "grpo": {}}, (), ("corpus", "tokenizer", "base", "grpo")),
        ({"stages": ["dpo", "sft", 7, "report"], "corpus": {}}, (), ("sft", "dpo")),
    ],
)
def test_what_belongs_to_a_run_follows_from_its_recipe(
    recipe: Any, begun: tuple[str, ...], stages: tuple[str, ...]
) -> None:
    assert expected(recipe, begun) == stages
    assert set(stages) < set(ORDER)
