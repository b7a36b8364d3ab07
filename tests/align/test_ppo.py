"""PPO: scores at the last real token, tolls on the way, values clipped; it learns, stays near, and resumes exactly."""

import copy
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from noisy import woken
from tiny_policies import PARAMS, graded_by, names, policy, prompts, share_of_even
from torch import Tensor

from cadran.align.actor_critic import ActorCritic
from cadran.align.branches import Branches, Prompted, pack_for
from cadran.align.experience import minibatch
from cadran.align.graders import Grader, by_functions, by_model
from cadran.align.kl_control import KlControl, frozen
from cadran.align.ppo import PpoConfig, PpoObjective
from cadran.align.prompt_loader import PromptLoader
from cadran.align.reward_model import RewardModel
from cadran.align.rewards.reward import Weighted
from cadran.align.rollout_engine import TorchRollouts
from cadran.errors import UserError
from cadran.model.lora import LoraConfig, add_adapter
from cadran.train.objective import Learnt
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import Interrupted, Trainer, TrainingPlan

CONFIG = PpoConfig(rollout=PARAMS, answers=2, epochs=2, micro=2)
EVEN = graded_by(share_of_even, "even")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def objective_of(
    model: ActorCritic,
    config: PpoConfig = CONFIG,
    *,
    grader: Grader = EVEN,
    control: KlControl | None = None,
    reference_seed: int = 0,
    seed: int = 3,
    count: int = 6,
) -> PpoObjective:
    return PpoObjective(
        model, TorchRollouts(model.policy), PromptLoader(prompts(12), count, seed), grader, names, config,
        control=control or KlControl(0.1), reference=frozen(policy(reference_seed)), seed=seed,
    )  # fmt: skip


def with_values(seed: int = 0) -> ActorCritic:
    model = ActorCritic(policy(seed))
    with torch.no_grad():
        model.value_head.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))
    return model


def gradients_of(objective: PpoObjective, step: int = 0) -> tuple[Learnt, dict[str, Tensor]]:
    objective.model.zero_grad()
    learnt = objective.gradients(step)
    return learnt, {n: p.grad.clone() for n, p in objective.model.named_parameters() if p.grad is not None}


def by_hand(rewards: list[float], values: list[float], lam: float) -> tuple[list[float], list[float]]:
    """Advantages and returns of one answer, gamma 1."""
    advantages = [0.0] * len(values)
    last = 0.0
    for t in reversed(range(len(values))):
        following = values[t + 1] if t + 1 < len(values) else 0.0
        last = rewards[t] + following - values[t] + lam * last
        advantages[t] = last
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_scores_lie_at_the_last_real_token_and_the_toll_on_every_one(temperature: float) -> None:
    """The whole round against plain loops over answers that are read one by one."""
    model, elder = with_values(), policy(5)
    config = replace(CONFIG, unended_penalty=0.7, rollout=replace(PARAMS, temperature=temperature))
    objective = objective_of(model, config, control=KlControl(0.3), reference_seed=5)
    learnt = objective.gradients(0)
    experience, known = objective.experience, objective._round
    assert experience is not None and known is not None
    advantages, returns, kls = [], [], []
    for number, rollout in enumerate(experience.rollouts):
        prompt = experience.prompts[rollout.prompt].ids
        ids = torch.tensor([[*prompt, *rollout.ids]])
        answer = torch.tensor(rollout.ids)[:, None]
        with torch.no_grad():
            states = model.policy.hidden_states(ids, _causal(ids.shape[1]))[0, len(prompt) - 1 : -1]
            values = (states @ model.value_head.weight[0]).tolist()
            own, his = (
                torch.log_softmax(each(ids)[0, len(prompt) - 1 : -1] / temperature, -1).gather(-1, answer)[:, 0]
                for each in (model.policy, elder)
            )
        rewards = (-0.3 * (own - his)).tolist()
        rewards[-1] += float(experience.rewards[number]) - (0.0 if rollout.ended else 0.7)
        kls.append(float((own - his).sum()))
        found = by_hand(rewards, values, 0.95)
        advantages += found[0]
        returns += found[1]
    expected = torch.tensor(advantages, dtype=torch.float64)
    expected = (expected - expected.mean()) / expected.std()
    assert (known.returns - torch.tensor(returns)).abs().max() < 1e-5, "returns are not whitened"
    assert (known.advantages - expected).abs().max() < 1e-5
    assert {r.ended for r in experience.rollouts} == {True, False}
    assert learnt.figures["kl"] == pytest.approx(sum(kls) / len(kls), abs=1e-5)
    assert learnt.figures["kl_coefficient"] == 0.3
    assert learnt.figures["mismatch"] < 1e-5, "the engine divides by the temperature too"


def _causal(length: int) -> Tensor:
    return torch.full((length, length), -torch.inf).triu(1)


def test_the_first_values_are_zero_and_their_loss_half_the_squared_returns() -> None:
    objective = objective_of(ActorCritic(policy()))
    figures = objective.gradients(0).figures
    assert objective._round is not None and bool((objective._round.values == 0).all())
    assert figures["value_loss"] == pytest.approx(float(objective._round.returns.square().mean() / 2), rel=1e-4)


def test_at_the_first_update_every_ratio_is_one() -> None:
    objective = objective_of(with_values())
    figures = objective.gradients(0).figures
    assert objective.period == 2
    assert figures["ratio"] == pytest.approx(1, abs=1e-5) and figures["clipped_share"] == 0
    assert figures["mismatch"] < 1e-5
    wanted = {"reward", "reward_even", "success", "kl", "kl_coefficient", "entropy", "length", "truncated_share",
              "value_loss", "zero_variance_share"}  # fmt: skip
    assert wanted <= set(figures)


def test_a_later_update_is_that_of_the_formula_with_its_clips_and_weights() -> None:
    """Ratios and values off where they were, an engine that thought otherwise, half of the prompts: row by row."""
    model = with_values()
    config = replace(
        CONFIG, minibatches=2, clip_low=0.1, clip_high=0.3, dual_clip=1.2, value_clip=0.3, value_weight=0.4,
        correction=1.5,
    )  # fmt: skip
    objective = objective_of(model, config)
    objective.gradients(0)
    experience, known = objective.experience, objective._round
    assert experience is not None and known is not None
    engine = experience.engine_logprobs = experience.engine_logprobs * 0.8
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    learnt, gradients = gradients_of(objective, 1)
    chosen = minibatch(range(6), 2, 1, (objective.seed, 0))
    losses, clips, far = [], [], []
    for answer in (answer for prompt in chosen for answer in experience.answers(prompt)):
        rollout, place = experience.rollouts[answer], experience.places([answer])
        prompt = experience.prompts[rollout.prompt].ids
        ids = torch.tensor([[*prompt, *rollout.ids]])
        states = model.policy.hidden_states(ids, _causal(ids.shape[1]))[0, len(prompt) - 1 : -1]
        values = states @ model.value_head.weight[0]
        new = torch.log_softmax(model.policy(ids)[0, len(prompt) - 1 : -1], -1)
        new = new.gather(-1, torch.tensor(rollout.ids)[:, None])[:, 0]
        old, advantages, returns, before = (
            each[place].float() for each in (known.logprobs, known.advantages, known.returns, known.values)
        )
        factor = (new - old).exp()
        kept = factor.clamp(0.9, 1.3)
        policies = torch.maximum(-advantages * factor, -advantages * kept)
        policies = torch.where(advantages < 0, torch.minimum(policies, -1.2 * advantages), policies)
        near = before + (values - before).clamp(-0.3, 0.3)
        critics = torch.maximum((values - returns) ** 2, (near - returns) ** 2) / 2
        losses.append(policies * (old - engine[place]).exp().clamp(max=1.5) + 0.4 * critics)
        clips.append(factor != kept)
        far.append(near != values)
    assert len(losses) == 6 and all(0.05 < float(torch.cat(each).double().mean()) < 0.95 for each in (clips, far))
    total = torch.cat(losses).mean()
    model.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    assert learnt.loss == pytest.approx(float(total.detach()), abs=1e-5)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and (gradients[name] - parameter.grad).abs().max() < 1e-5, name


def test_a_policy_that_moved_before_its_first_update_is_found_out() -> None:
    model = with_values()
    objective = objective_of(model)
    plain = objective._reference

    def meddling(batch: Branches, temperature: float) -> Tensor:
        with torch.no_grad():
            model.policy.lm_head.weight.mul_(1.5)
        return plain(batch, temperature)

    objective._reference = meddling
    with pytest.raises(UserError, match="dropout"):
        objective.gradients(0)


def test_dropout_is_off_whatever_mode_the_model_was_left_in() -> None:
    """With it the ratio would not be 1, and the answers would be graded by another model than the one that drew."""
    found = []
    for dropout in (0.0, 0.5):
        transformer = policy()
        add_adapter(transformer, LoraConfig(rank=2, dropout=dropout), 0)
        woken(transformer)
        objective = objective_of(ActorCritic(transformer))
        objective.model.train()
        found.append(gradients_of(objective))
    (plain, without), (dropped, with_it) = found
    assert plain.loss == dropped.loss and without.keys() == with_it.keys()
    assert all(torch.equal(without[name], with_it[name]) for name in without)


def test_the_size_of_micro_batches_changes_nothing() -> None:
    found = []
    for micro in (1, 6):
        objective = objective_of(with_values(), replace(CONFIG, micro=micro, minibatches=2))
        objective.gradients(0)
        with torch.no_grad():
            for parameter in objective.model.parameters():
                parameter.mul_(1.1)
        found.append(gradients_of(objective, 1))
    (one, left), (six, right) = found
    assert one.loss == pytest.approx(six.loss, abs=1e-6) and one.figures == pytest.approx(six.figures, abs=1e-5)
    assert all((left[name] - right[name]).abs().max() < 1e-5 for name in left)


def test_scaled_scores_keep_their_zero() -> None:
    rule = graded_by(lambda graded: 5.0 + share_of_even(graded))
    plain, scaled = (
        objective_of(with_values(), replace(CONFIG, scale_rewards=scale, unended_penalty=0), grader=rule)
        for scale in (False, True)
    )
    for objective in (plain, scaled):
        objective.gradients(0)
        assert objective.experience is not None
    assert plain.experience is not None
    before, after = plain._scores(plain.experience), scaled._scores(plain.experience)
    assert float(after.std()) == pytest.approx(1) and bool((after > 0).all())
    assert float((after / before).std()) == pytest.approx(0, abs=1e-9)


def test_a_critic_of_its_own_gets_the_values_gradient_and_the_policy_none_of_it() -> None:
    model = ActorCritic(policy(0), policy(1))
    with torch.no_grad():
        model.value_head.weight.fill_(0.1)
    objective = objective_of(model, replace(CONFIG, value_weight=0.0))
    _, without = gradients_of(objective)
    objective = objective_of(model, replace(CONFIG, value_weight=1.0))
    _, with_it = gradients_of(objective)
    assert all(torch.equal(without[n], with_it[n]) for n in without if n.startswith("policy."))
    assert any(with_it[n].abs().max() > 1e-4 for n in with_it if n.startswith("critic.model.layers."))


def test_a_reward_model_grades_the_very_ids_at_their_last_token() -> None:
    reward_model = RewardModel(policy(7), seed=1)
    reward_model.shift.fill_(0.3)
    reward_model.scale.fill_(2.0)  # normalised, as a stage leaves it
    objective = objective_of(with_values(), grader=by_model(reward_model, 11, micro=2))
    objective.gradients(0)
    assert objective.experience is not None
    for rollout, reward in zip(objective.experience.rollouts, objective.experience.rewards, strict=True):
        item = Prompted(objective.experience.prompts[rollout.prompt].ids, (rollout.ids,))
        with torch.no_grad():
            alone = reward_model.scores(pack_for(reward_model.transformer, [item]))
        assert float(reward) == pytest.approx((float(alone) - 0.3) / 2, abs=1e-5)


class Broken:
    """A reward that loses its head."""

    name = "broken"

    def __call__(self, graded: Any) -> list[float]:
        return [float("nan")] * len(graded)


def test_a_reward_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match="broken"):
        objective_of(with_values(), grader=by_functions([Weighted(Broken())])).gradients(0)
    rule = graded_by(lambda graded: float("inf"))
    with pytest.raises(UserError, match="inf for an answer to row"):
        objective_of(with_values(), grader=rule).gradients(0)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"epochs": 0}, {"lam": 2.0}, {"value_clip": -1.0}, {"rollout": replace(PARAMS, temperature=0.0)}):
        with pytest.raises(UserError):
            replace(CONFIG, **wrong)
    with pytest.raises(UserError, match="minibatches=1"):
        objective_of(with_values(), replace(CONFIG, minibatches=7))
    with pytest.raises(UserError, match="positive"):
        KlControl(0.0, target=6.0)
    with pytest.raises(ValueError, match="not drawn here"):
        objective_of(with_values()).gradients(1)


def test_the_coefficient_follows_the_kl() -> None:
    control = KlControl(0.2, target=6.0, horizon=10_000)
    control.update(12.0, 64)
    assert control.coefficient == pytest.approx(0.200256)
    control.update(0.0, 64)
    assert control.coefficient < 0.200256
    other = KlControl(0.5, target=1.0)
    other.restore(control.state())
    assert other.coefficient == control.coefficient


PLAN = TrainingPlan(
    steps=8, micro_rows=1, precision="fp32",
    optimizer=OptimizerConfig("adamw", 0.01, 0.01, 0.01, adapter_rate=0.01, scalar_rate=0.01),
    schedule=Schedule(8, decay=0.0), observe_every=100, checkpoint_seconds=0.0,
)  # fmt: skip


def trained(folder: Path, stop_after: int = 0) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Weights at the end, and the figures of the steps done here; all objects are new."""
    transformer = policy()
    add_adapter(transformer, LoraConfig(rank=2), 0)
    model = ActorCritic(transformer)
    events: list[dict[str, Any]] = []
    objective = objective_of(model, control=KlControl(0.1, target=0.5, horizon=50), reference_seed=5)
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
    steps = [
        {k: v for k, v in event.items() if k not in ("tokens_per_second", "took")}
        for event in events
        if event["kind"] == "step"
    ]
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}, steps


def test_stopped_and_resumed_it_ends_in_the_same_bytes(tmp_path: Path) -> None:
    whole, steps = trained(tmp_path / "whole")
    _, before = trained(tmp_path / "parts", stop_after=3)
    assert len(before) == 4, "it goes on to the end of the period"
    resumed, after = trained(tmp_path / "parts")
    assert before + after == steps
    assert len({step["kl_coefficient"] for step in steps}) == 4, "the coefficient moved with every round"
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert set(whole) >= {"value_head.weight"} and whole["value_head.weight"].abs().max() > 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_raises_the_reward_and_stays_near_the_reference(tmp_path: Path, seed: int) -> None:
    """KL at the end below 4 nats an answer, of which there would be more without the toll."""
    found = {}
    for coefficient in (0.0, 0.1):
        model = ActorCritic(policy(seed))
        events: list[dict[str, Any]] = []
        objective = PpoObjective(
            model, TorchRollouts(model.policy), PromptLoader(prompts(12), 12, seed), EVEN, names,
            replace(CONFIG, micro=12), control=KlControl(coefficient),
            reference=frozen(copy.deepcopy(model.policy)), seed=seed,
        )  # fmt: skip
        plan = replace(PLAN, steps=36, schedule=Schedule(36, decay=0.0), checkpoint_seconds=600)
        Trainer(model, objective, plan, tmp_path / str(coefficient), {}, events.append).run()
        steps = [event for event in events if event["kind"] == "step"]
        found[coefficient] = [
            sum(step[name] for step in some) / 6 for name in ("reward", "kl") for some in (steps[:6], steps[-6:])
        ]
    before, after, _, kl = found[0.1]
    assert after > before + 0.2, found
    assert 0 < kl < 4 and kl < found[0.0][3], found
