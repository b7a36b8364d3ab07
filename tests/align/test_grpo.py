"""GRPO: the gradient is that of the formula, whatever the packing; it learns; a kill and a resume leave no trace."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy import woken
from tiny_policies import PARAMS, alone, graded_by, moved, names, policy, prompts, share_of_even
from torch import Tensor

from cadran.align.experience import minibatch
from cadran.align.graders import Grader
from cadran.align.grpo import GrpoConfig, GrpoObjective
from cadran.align.kl_control import TokenReference, adapter_off, frozen
from cadran.align.prompt_loader import PromptLoader
from cadran.align.rewards.reward import Graded, Grades
from cadran.align.rollout_engine import RolloutSource, TorchRollouts, open_rollouts
from cadran.engine.native import library
from cadran.errors import UserError
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.transformer import Transformer
from cadran.train.objective import Learnt
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import Interrupted, Trainer, TrainingPlan


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


CONFIG = GrpoConfig(answers=4, rollout=PARAMS, micro=2, aggregation="token-mean")
EVEN = graded_by(share_of_even, "even")


def objective_of(
    model: Transformer,
    config: GrpoConfig = CONFIG,
    *,
    grader: Grader = EVEN,
    reference: TokenReference | None = None,
    source: RolloutSource | None = None,
    seed: int = 3,
    count: int = 6,
) -> GrpoObjective:
    loader = PromptLoader(prompts(12), count, seed)
    return GrpoObjective(
        model, source or TorchRollouts(model), loader, grader, names, config, seed=seed, reference=reference
    )


def gradients_of(objective: GrpoObjective, step: int = 0) -> tuple[Learnt, dict[str, Tensor]]:
    objective.model.zero_grad()
    learnt = objective.gradients(step)
    return learnt, {n: p.grad.clone() for n, p in objective.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "dr-grpo"])
def test_the_gradient_is_that_of_the_formula_on_separate_rows(aggregation: Any, temperature: float) -> None:
    model, elder = policy(), policy(seed=5)
    rollout = replace(PARAMS, temperature=temperature)
    config = replace(CONFIG, aggregation=aggregation, rollout=rollout, kl=0.3)
    objective = objective_of(model, config, reference=frozen(elder))
    learnt, gradients = gradients_of(objective)
    experience = objective.experience
    assert experience is not None
    rewards = experience.rewards.view(-1, 4)
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)).flatten().float()
    with torch.no_grad():
        references = alone(elder, experience, temperature)
    own = alone(model, experience, temperature)
    # At the first update the ratio is 1, so the policy's part is -A and its gradient -A times that of log p.
    losses = []
    for logprobs, reference, advantage in zip(own, references, advantages, strict=True):
        gap = reference - logprobs
        losses.append(-advantage * (logprobs - logprobs.detach()).exp() + 0.3 * (gap.exp() - gap - 1))
    total, tokens = torch.cat(losses).sum(), int(experience.lengths.sum())
    if aggregation == "token-mean":
        total = total / tokens
    elif aggregation == "dr-grpo":
        total = total / (24 * PARAMS.max_tokens)
    else:
        total = sum((loss.mean() for loss in losses), torch.zeros(())) / 24
    model.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    assert learnt.loss == pytest.approx(float(total.detach()), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (gradients[name] - parameter.grad).abs().max() < 1e-5, name
    assert learnt.figures["kl"] == pytest.approx(
        sum(
            float((r - p.detach()).exp().sum() - (r - p.detach()).sum() - len(p))
            for p, r in zip(own, references, strict=True)
        )
        / 24,
        rel=1e-4,
    )


@pytest.mark.parametrize("ratio", ["token", "sequence", "cispo"])
def test_a_later_update_is_that_of_the_formula_with_its_clips_and_weights(ratio: Any) -> None:
    """Ratios off 1 on both sides, an engine that thought otherwise, half of the prompts: with loops, row by row."""
    model, elder = policy(), policy(seed=5)
    config = replace(
        CONFIG, ratio=ratio, epochs=2, minibatches=2, clip_low=0.1, clip_high=0.3, dual_clip=1.2, correction=1.5, kl=0.2
    )
    objective = objective_of(model, config, reference=frozen(elder))
    objective.gradients(0)
    experience = objective.experience
    assert experience is not None
    with torch.no_grad():
        olds, references = (alone(each, experience, 1.0) for each in (model, elder))
    engine = experience.engine_logprobs = experience.engine_logprobs * 0.8
    moved(model, by=0.04)
    learnt, gradients = gradients_of(objective, 1)
    chosen = minibatch(range(6), 2, 1, (objective.seed, 0))
    answers = [answer for prompt in chosen for answer in experience.answers(prompt)]
    assert len(answers) == 12 and len(chosen) == 3
    own, losses, clips = alone(model, experience, 1.0), [], []
    for answer in answers:
        place = experience.places([answer])
        new, old, advantage = own[answer], olds[answer], float(objective._advantages[answer])
        change = new - old
        factor = (change.mean().expand_as(change) if ratio == "sequence" else change).exp()
        kept = factor.clamp(0.9, 1.3)
        if ratio == "cispo":
            each = -advantage * kept.detach() * new
        else:
            each = torch.maximum(-advantage * factor, -advantage * kept)
            if advantage < 0:
                each = each.clamp(max=-1.2 * advantage)
        weight = (old - engine[place]).exp().clamp(max=1.5)
        gap = references[answer] - new
        losses.append(each * weight + 0.2 * (gap.exp() - gap - 1))
        clips.append(factor != kept)
    assert 0.05 < float(torch.cat(clips).double().mean()) < 0.95
    total = torch.cat(losses).mean()
    model.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    assert learnt.loss == pytest.approx(float(total.detach()), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (gradients[name] - parameter.grad).abs().max() < 1e-5, name


@pytest.mark.parametrize("aggregation", ["token-mean", "sequence-mean", "dr-grpo"])
@pytest.mark.parametrize("options", [{}, {"mask_truncated": True, "drop_zero_variance": True, "ratio": "sequence"}])
def test_the_size_of_micro_batches_changes_nothing(aggregation: Any, options: dict[str, Any]) -> None:
    found = []
    for micro in (1, 2, 6):
        model = policy()
        config = replace(CONFIG, micro=micro, aggregation=aggregation, kl=0.1, epochs=2, minibatches=2, **options)
        objective = objective_of(model, config, reference=frozen(policy(seed=5)))
        objective.gradients(0)
        moved(model)
        found.append(gradients_of(objective, 1))
    for learnt, gradients in found[1:]:
        assert learnt.loss == pytest.approx(found[0][0].loss, abs=1e-6)
        assert learnt.figures == pytest.approx(found[0][0].figures, rel=1e-4, abs=1e-5)
        for name, gradient in gradients.items():
            assert (gradient - found[0][1][name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("kind", ["grpo", "dr-grpo", "rloo"])
def test_advantages_come_from_the_rewards_of_the_group(kind: Any) -> None:
    planted = iter([1.0, 0.0, 0.0, 0.0] * 6)
    objective = objective_of(policy(), replace(CONFIG, advantages=kind), grader=graded_by(lambda _: next(planted)))
    objective.gradients(0)
    expected = {"grpo": [1.4997, -0.4999], "dr-grpo": [0.75, -0.25], "rloo": [1.0, -1 / 3]}[kind]
    assert objective._advantages[:2].tolist() == pytest.approx(expected, abs=1e-4)
    assert objective._advantages.view(6, 4).sum(1).abs().max() < 1e-5


def test_at_the_first_update_every_ratio_is_one_and_later_it_is_not() -> None:
    model = policy()
    objective = objective_of(model, replace(CONFIG, epochs=2))
    first = objective.gradients(0).figures
    assert objective.period == 2
    assert first["ratio"] == pytest.approx(1, abs=1e-5) and first["clipped_share"] == 0
    assert first["mismatch"] < 1e-5 and first["correction"] == pytest.approx(1, abs=1e-5)
    moved(model, by=0.2)
    second = objective.gradients(1).figures
    assert abs(second["ratio"] - 1) > 1e-3 and second["clipped_share"] > 0
    assert second["mismatch"] == pytest.approx(first["mismatch"]), "the engine is compared with the policy that drew"


def test_a_policy_that_moved_before_its_first_update_is_found_out() -> None:
    model = policy()

    def meddling(batch: Any, temperature: float) -> Tensor:
        moved(model)
        return torch.zeros(len(batch.targets))

    with pytest.raises(UserError, match="dropout"):
        objective_of(model, replace(CONFIG, epochs=2, kl=0.1), reference=meddling).gradients(0)


def test_dropout_is_off_whatever_mode_the_model_was_left_in() -> None:
    """A round that is used once has no earlier pass to be compared with, so nothing else would tell."""
    found = []
    for dropout in (0.0, 0.5):
        model = policy()
        add_adapter(model, LoraConfig(rank=2, dropout=dropout), 0)
        woken(model)
        objective = objective_of(model, replace(CONFIG, kl=0.1), reference=adapter_off(model))
        model.train()
        found.append(gradients_of(objective))
    (plain, without), (dropped, with_it) = found
    assert plain.loss == dropped.loss and plain.figures == dropped.figures and plain.figures["kl"] > 1e-3
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_groups_without_a_difference_teach_nothing_and_are_counted() -> None:
    for drop in (False, True):
        objective = objective_of(
            policy(), replace(CONFIG, drop_zero_variance=drop), grader=graded_by(lambda graded: 1.0)
        )
        learnt, gradients = gradients_of(objective)
        assert learnt.figures["zero_variance_share"] == 1 and learnt.loss == 0
        assert all(gradient.abs().max() == 0 for gradient in gradients.values())
        assert bool(gradients) != drop
        assert all(value == value for value in learnt.figures.values())
    rule = graded_by(lambda graded: float(graded.reference["number"] % 2) * share_of_even(graded))
    whole, dropped = (
        gradients_of(objective_of(policy(), replace(CONFIG, drop_zero_variance=drop, correction=0), grader=rule))
        for drop in (False, True)
    )
    assert 0 < whole[0].figures["zero_variance_share"] < 1
    name = "model.norm.weight"
    scale = dropped[1][name].norm() / whole[1][name].norm()
    assert scale > 1.1, "they are no longer divided by"
    assert (dropped[1][name] - scale * whole[1][name]).abs().max() < 1e-6, "and gave no gradient before"


def test_a_training_goes_on_through_rounds_that_teach_nothing(tmp_path: Path) -> None:
    model = policy()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    config = replace(CONFIG, drop_zero_variance=True, epochs=2)
    events: list[dict[str, Any]] = []
    objective = objective_of(model, config, grader=graded_by(lambda graded: 0.5))
    Trainer(model, objective, PLAN, tmp_path, {}, events.append).run()
    assert [event["zero_variance_share"] for event in events if event["kind"] == "step"] == [1.0] * 8
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_success_may_be_decided_by_one_of_the_rewards() -> None:
    def grader(graded: Any, items: Any) -> Grades:
        right = torch.tensor([float(one.ended) for one in graded])
        return Grades(right + 5, {"right": right, "polite": torch.full_like(right, 5)})

    figures = objective_of(policy(), replace(CONFIG, success_reward="right"), grader=grader).gradients(0).figures
    assert figures["success"] == figures["reward_right"] == pytest.approx(1 - figures["truncated_share"])
    assert objective_of(policy(), CONFIG, grader=grader).gradients(0).figures["success"] == 1


def test_cut_answers_can_be_left_out() -> None:
    planted = graded_by(lambda graded: float(graded.ended))
    objective = objective_of(policy(), replace(CONFIG, mask_truncated=True), grader=planted)
    learnt, _ = gradients_of(objective)
    experience = objective.experience
    assert experience is not None and 0 < learnt.figures["truncated_share"] < 1
    cut = ~experience.ended
    read, _ = gradients_of(objective_of(policy(), CONFIG, grader=planted))
    assert read.tokens - learnt.tokens >= int(experience.lengths[cut].sum())


def test_a_correction_weighs_tokens_the_engine_thought_otherwise_of() -> None:
    """As if the engine had drawn from a flatter distribution: every weight is checked against the formula."""
    objective = objective_of(policy(), replace(CONFIG, correction=1.5, epochs=2))
    original = objective._draw

    def draw(number: int) -> None:
        original(number)
        assert objective.experience is not None
        objective.experience.engine_logprobs *= 0.8

    objective._draw = draw  # type: ignore[method-assign]
    figures = objective.gradients(0).figures
    assert objective.experience is not None and objective._old is not None
    engine = objective.experience.engine_logprobs
    weights = (objective._old - engine).exp().clamp(max=1.5)
    assert figures["correction"] == pytest.approx(float(weights.mean()), rel=1e-5) and figures["correction"] < 0.95
    assert figures["mismatch"] == pytest.approx(float((objective._old - engine).abs().mean()), rel=1e-5)


def test_a_reward_that_is_no_number_is_refused_with_the_row() -> None:
    rule = graded_by(lambda graded: float("nan") if graded.reference["number"] == 4 else 0.0)
    with pytest.raises(UserError, match="nan for an answer to row 4"):
        objective_of(policy(), grader=rule, count=12).gradients(0)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"answers": 1}, {"micro": 0}, {"kl": -1.0}, {"rollout": replace(PARAMS, temperature=0.0)}):
        with pytest.raises(UserError):
            replace(CONFIG, **wrong)
    with pytest.raises(UserError, match="minibatches=1"):
        objective_of(policy(), replace(CONFIG, minibatches=7))
    with pytest.raises(UserError, match="kl=0"):
        objective_of(policy(), replace(CONFIG, kl=0.1))
    with pytest.raises(ValueError, match="not drawn here"):
        objective_of(policy(), replace(CONFIG, epochs=2)).gradients(3)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_an_adapter_switched_off_is_the_reference(temperature: float) -> None:
    model = policy()
    add_adapter(model, LoraConfig(rank=2, dropout=0.5), 0)
    config = replace(CONFIG, kl=0.1, rollout=replace(PARAMS, temperature=temperature))
    objective = objective_of(model, config, reference=adapter_off(model))
    assert objective.gradients(0).figures["kl"] < 1e-6
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    assert objective.gradients(1).figures["kl"] > 1e-3
    with pytest.raises(UserError, match="no adapter"):
        adapter_off(policy())


PLAN = TrainingPlan(
    steps=8, micro_rows=1, precision="fp32",
    optimizer=OptimizerConfig("adamw", 0.01, 0.01, 0.01, adapter_rate=0.01), schedule=Schedule(8, decay=0.0),
    observe_every=100, checkpoint_seconds=0.0,
)  # fmt: skip


def trained(
    folder: Path, config: GrpoConfig, stop_after: int = 0, kind: str = "torch"
) -> tuple[dict[str, Tensor], list[float]]:
    """Weights at the end, and the losses of the steps done here; all objects are new."""
    model = policy()
    add_adapter(model, LoraConfig(rank=2), 0)
    events: list[dict[str, Any]] = []
    source, reason = open_rollouts(model, kind)  # type: ignore[arg-type]
    assert reason == ""
    objective = objective_of(model, config, reference=adapter_off(model), source=source)
    trainer = Trainer(model, objective, PLAN, folder, {"recipe": "test"}, events.append)
    if stop_after:
        original = trainer.step

        def step(number: int) -> Learnt:
            if number == stop_after - 1:
                os.kill(os.getpid(), signal.SIGINT)
            return original(number)

        trainer.step = step  # type: ignore[method-assign]
        with pytest.raises(Interrupted):
            trainer.run()
    else:
        trainer.run()
    losses = [event["loss"] for event in events if event["kind"] == "step"]
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, losses


@pytest.mark.parametrize(
    "kind",
    ["torch", pytest.param("int8", marks=pytest.mark.skipif(not library.available(), reason=str(library.why_not())))],
)
def test_stopped_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path, kind: str) -> None:
    config = replace(CONFIG, epochs=2, kl=0.05)
    whole, losses = trained(tmp_path / "whole", config, kind=kind)
    _, before = trained(tmp_path / "parts", config, stop_after=3, kind=kind)
    assert len(before) == 4, "it goes on to the end of the period"
    resumed, after = trained(tmp_path / "parts", config, kind=kind)
    assert before + after == losses and len(set(losses)) > 4
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def ends_even(graded: Graded) -> float:
    """Right are answers of even numbers only, and not none."""
    ids = [int(word) for word in graded.answer.split()]
    return float(graded.ended and bool(ids) and all(id % 2 == 0 for id in ids))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_to_be_right_at_least_twice_as_often(tmp_path: Path, seed: int) -> None:
    model = policy(seed)
    events: list[dict[str, Any]] = []
    config = replace(CONFIG, answers=8, epochs=2, micro=6)
    objective = objective_of(model, config, grader=graded_by(ends_even), seed=seed)
    plan = replace(PLAN, steps=40, schedule=Schedule(40, decay=0.0), checkpoint_seconds=600)
    Trainer(model, objective, plan, tmp_path, {}, events.append).run()
    success = [event["success"] for event in events if event["kind"] == "step"]
    before, after = sum(success[:6]) / 6, sum(success[-6:]) / 6
    assert after >= 2 * before and after > 0.5, (before, after)
