"""Preference optimisation as training: exact however cut or packed, ln 2 at first, resumable, and it learns."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from noisy import woken
from torch import Tensor

from cadran.align.branches import Prompted, pack_for
from cadran.align.losses.preference import PreferenceLoss
from cadran.align.pair_loader import PairLoader
from cadran.align.preference_objective import PreferenceObjective, examine_pairs
from cadran.align.reference import adapter_off, answer_logprobs, item_logprobs
from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.lora import LoraConfig, add_adapter
from cadran.model.transformer import Transformer
from cadran.train.optimizers import OptimizerConfig
from cadran.train.schedule import Schedule
from cadran.train.trainer import Trainer, TrainingPlan

CONFIG = ModelConfig(
    vocabulary=32, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, context=32, tied=True
)
STOP = 1
KINDS: tuple[PreferenceLoss, ...] = get_args(PreferenceLoss)
OPTIONS: dict[str, dict[str, Any]] = {
    "cdpo": {"smoothing": 0.1}, "robust": {"smoothing": 0.1}, "simpo": {"gamma": 0.3}, "dpo": {"sft_weight": 0.4}
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def planted(count: int, seed: int) -> list[Prompted]:
    """Prompts with an answer in even tokens, which is preferred, and one in odd tokens."""
    generator = np.random.Generator(np.random.PCG64(seed))

    def answer(odd: int) -> tuple[int, ...]:
        return (*(2 * generator.integers(1, 15, generator.integers(1, 6)) + odd).tolist(), STOP)

    return [
        Prompted(tuple(generator.integers(2, 32, generator.integers(1, 7)).tolist()), (answer(0), answer(1)))
        for _ in range(count)
    ]


def tiny(seed: int = 0, noise: float = 0.2) -> Transformer:
    model = Transformer(CONFIG, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return model


def reference_of(kind: str, items: list[Prompted]) -> Tensor | None:
    """Of another model than the policy, so that no difference is zero."""
    return None if kind in ("simpo", "orpo") else item_logprobs(tiny(seed=9).double(), items, micro=4)


def gradients(model: Transformer, objective: PreferenceObjective, step: int) -> tuple[float, list[Tensor]]:
    model.zero_grad()
    loss = objective.gradients(step).loss
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in found) > 0.01
    return loss, found


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_do_not_depend_on_how_a_batch_is_cut_or_packed(kind: PreferenceLoss) -> None:
    items, model = planted(9, 0), tiny().double()
    reference, loader = reference_of(kind, items), PairLoader(items, 5, 1)
    results = []
    for micro in (5, 2, 1):
        objective = PreferenceObjective(model, items, loader, kind, 0.3, reference, micro, **OPTIONS.get(kind, {}))
        results.append(gradients(model, objective, 2))  # over the border of an epoch
    for loss, found in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-12)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, results[0][1], strict=True))


def by_hand(model: Transformer, item: Prompted) -> tuple[Tensor, Tensor]:
    """Log-probability of either answer of a pair, by plain forward passes of one row."""
    sums = []
    for answer in item.answers:
        ids = torch.tensor([item.prompt + answer])
        each = model(ids).log_softmax(-1)[0, len(item.prompt) - 1 : -1]
        sums.append(each.gather(1, ids[0, len(item.prompt) :, None]).sum())
    return sums[0], sums[1]


@pytest.mark.parametrize("kind", ["dpo", "ipo", "simpo"])
def test_loss_and_gradient_are_those_of_the_formula_on_single_rows(kind: PreferenceLoss) -> None:
    items, model = planted(6, 0), tiny().double()
    loader, reference = PairLoader(items, 4, 1), reference_of(kind, items)
    objective = PreferenceObjective(model, items, loader, kind, 0.3, reference, 2, **OPTIONS.get(kind, {}))
    loss, found = gradients(model, objective, 1)
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for index in loader.batch(1):
        chosen, rejected = by_hand(model, items[index])
        lengths = [len(answer) for answer in items[index].answers]
        if kind == "simpo":
            total = total - F.logsigmoid(0.3 * (chosen / lengths[0] - rejected / lengths[1]) - 0.3)
            continue
        assert reference is not None
        chosen_ratio, rejected_ratio = chosen - reference[2 * index], rejected - reference[2 * index + 1]
        if kind == "ipo":
            total = total + (chosen_ratio / lengths[0] - rejected_ratio / lengths[1] - 1 / 0.6) ** 2
        else:
            total = total - F.logsigmoid(0.3 * (chosen_ratio - rejected_ratio)) - 0.4 * chosen / lengths[0]
    (total / 4).backward()
    assert loss == pytest.approx(float(total.detach() / 4), abs=1e-12)
    alone = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, alone, strict=True))


def test_tokens_that_are_not_supervised_count_in_neither_sum_nor_length() -> None:
    plain = [Prompted((3, 4), ((6, 8, 10), (5, 7)))]
    masked = [replace(plain[0], supervised=((True, False, True), (True, True)))]
    shortened = (True, True, False), (True, True)
    model = tiny().double()
    losses = []
    for items in (plain, masked, [replace(plain[0], supervised=shortened)], [Prompted((3, 4), ((6, 8), (5, 7)))]):
        objective = PreferenceObjective(model, items, PairLoader(items, 1, 0), "simpo", 2.0, None, 1)
        losses.append(objective.gradients(0).loss)
    assert losses[2] == pytest.approx(losses[3], abs=1e-12)  # an unsupervised tail is as good as none
    assert len({round(loss, 9) for loss in losses}) == 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kept", [True, False])
def test_first_loss_of_a_fresh_adapter_is_ln_2_to_the_last_bit(kept: bool, dtype: torch.dtype) -> None:
    items, model = planted(8, 0), tiny()
    add_adapter(model, LoraConfig(rank=2, dropout=0.3), seed=0)
    model.train()
    loader = PairLoader(items, 4, 0)
    reference = adapter_off(model, dtype)
    if kept:  # in the order of the first batch, so that the rows are the same
        order = loader.batch(0)
        table = torch.zeros(16)
        for piece in (order[:2], order[2:]):
            found = item_logprobs(model, [items[i] for i in piece], micro=2, dtype=dtype)
            table.view(-1, 2)[piece] = found.view(-1, 2)
    objective = PreferenceObjective(model, items, loader, "dpo", 0.1, table if kept else reference, 2, dtype)
    learnt = objective.gradients(0)
    assert learnt.loss == float(torch.tensor(math.log(2)))
    assert learnt.figures["margin"] == 0 and learnt.figures["chosen_reward"] == 0
    trained = {n.rpartition(".")[2] for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert trained == {"lora_B"}  # B = 0 keeps the gradient from A


def test_dropout_is_off_whatever_mode_the_model_was_left_in() -> None:
    """A fresh adapter would not tell: what is dropped of its input is multiplied by zero."""
    items, found = planted(8, 0), []
    for dropout in (0.0, 0.5):
        model = tiny()
        add_adapter(model, LoraConfig(rank=2, dropout=dropout), seed=0)
        woken(model)
        model.train()
        objective = PreferenceObjective(model, items, PairLoader(items, 4, 0), "dpo", 0.1, adapter_off(model), 2)
        found.append(objective.gradients(1).figures)
    assert found[0] == found[1] and found[0]["margin"] != 0


def test_a_reference_that_is_not_the_policy_is_refused_at_the_first_step_only() -> None:
    items, model = planted(4, 0), tiny()
    stranger = item_logprobs(tiny(seed=9), items, micro=4)
    objective = PreferenceObjective(model, items, PairLoader(items, 4, 0), "dpo", 0.5, stranger, 4)
    with pytest.raises(UserError, match="reference is not the policy"):
        objective.gradients(0)
    assert math.isfinite(objective.gradients(1).loss)


def test_figures_keep_the_two_log_probabilities_apart() -> None:
    items, model = planted(6, 2), tiny()
    reference = item_logprobs(tiny(seed=9), items, micro=6)
    objective = PreferenceObjective(model, items, PairLoader(items, 6, 0), "hinge", 0.5, reference, 4)
    learnt = objective.gradients(1)
    sums = item_logprobs(model, items, micro=6).view(-1, 2)
    rewards = 0.5 * (sums - reference.view(-1, 2))
    expected = {
        "accuracy": float((rewards[:, 0] > rewards[:, 1]).double().mean()),
        "margin": float((rewards[:, 0] - rewards[:, 1]).mean()),
        "chosen_reward": float(rewards[:, 0].mean()),
        "rejected_reward": float(rewards[:, 1].mean()),
        "chosen_logprob": float(sums[:, 0].mean()),
        "rejected_logprob": float(sums[:, 1].mean()),
    }
    assert learnt.figures == pytest.approx(expected, abs=1e-4)
    assert learnt.tokens == sum(len(i.prompt) + sum(map(len, i.answers)) for i in items)


PLAN = TrainingPlan(
    steps=5, micro_rows=1, precision="fp32", optimizer=OptimizerConfig(adapter_rate=0.01), schedule=Schedule(5),
    observe_every=100, checkpoint_seconds=0.0,
)  # fmt: skip


def trainer_of(folder: Path, whole: bool, events: list[dict[str, Any]], die_at: int = 0) -> Trainer:
    """Everything made anew, as by a process that starts; it dies in the middle of step ``die_at``."""
    items, model = planted(10, 0), tiny()
    if whole:
        reference: Any = item_logprobs(model, items, micro=4, cache=folder / "reference")
    else:
        add_adapter(model, LoraConfig(rank=2), seed=0)
        reference = adapter_off(model, torch.float32)
    objective = PreferenceObjective(model, items, PairLoader(items, 4, 1), "dpo", 0.1, reference, 2, torch.float32)
    original = objective.gradients

    def dying(step: int) -> Any:
        learnt = original(step)
        if die_at and step + 1 == die_at:
            raise KeyboardInterrupt
        return learnt

    objective.gradients = dying  # type: ignore[method-assign]
    plan = replace(PLAN, checkpoint_seconds=0.0 if die_at else 1e9)
    return Trainer(model, objective, plan, folder / "checkpoints", {"recipe": "test"}, events.append)


@pytest.mark.parametrize("whole", [True, False])
def test_training_left_and_gone_on_with_ends_in_the_same_bytes(whole: bool, tmp_path: Path) -> None:
    never = trainer_of(tmp_path / "never", whole, [])
    never.run()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "parts", whole, [], die_at=3).run()
    events: list[dict[str, Any]] = []
    resumed = trainer_of(tmp_path / "parts", whole, events)
    before = [parameter.detach().clone() for parameter in resumed.model.parameters()]
    resumed.run()
    assert events[0] == {"kind": "resumed", "step": 2}
    after = list(resumed.model.parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(never.model.parameters(), after, strict=True))


def learn(kind: PreferenceLoss, seed: int, folder: Path, lora: bool) -> tuple[dict[str, Any], Transformer]:
    items, held_out = planted(300, seed), planted(200, 1000 + seed)
    model = tiny(seed, noise=0.2 if lora else 0.02)  # an adapter alone cannot sharpen a head that is all but zero
    before = item_logprobs(model, held_out, micro=50)
    reference: Any = None if kind in ("simpo", "orpo") else item_logprobs(model, items, micro=50)
    if lora:
        add_adapter(model, LoraConfig(rank=4), seed=seed)
        reference = adapter_off(model, torch.float32)
    rates = OptimizerConfig(matrix_rate=0.005, embedding_rate=0.003, norm_rate=0.003, adapter_rate=0.02)
    steps = 60 if lora else 40
    plan = replace(PLAN, steps=steps, schedule=Schedule(steps), optimizer=rates, checkpoint_seconds=1e9)
    objective = PreferenceObjective(model, items, PairLoader(items, 16, seed), kind, 0.5, reference, 16, torch.float32)
    Trainer(model, objective, plan, folder, {}, lambda event: None).run()
    kinds = ["short" if len(item.prompt) < 4 else "long" for item in held_out]
    return examine_pairs(model, held_out, before, 0.5, kinds, micro=50), model


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("lora", [False, True])
def test_dpo_learns_a_planted_preference(seed: int, lora: bool, tmp_path: Path) -> None:
    figures, _ = learn("dpo", seed, tmp_path, lora)
    assert figures["accuracy"]["before"] < 0.75
    assert figures["accuracy"]["after"] > 0.9 and figures["accuracy"]["interval"][0] > 0.85
    assert figures["reward"]["accuracy"] > 0.85 and figures["reward"]["margin"] > 0
    assert figures["kl"]["chosen"] > figures["kl"]["rejected"]
    for name in ("before", "after"):
        weighted = sum(held[name] * held["pairs"] for held in figures["by_kind"].values()) / 200
        assert weighted == pytest.approx(figures["accuracy"][name])


@pytest.mark.parametrize("kind", ["ipo", "simpo", "orpo"])
def test_its_relatives_learn_it_too(kind: PreferenceLoss, tmp_path: Path) -> None:
    assert learn(kind, 0, tmp_path, lora=False)[0]["accuracy"]["after"] > 0.9


def test_examination_of_the_reference_itself_finds_no_difference() -> None:
    items, model = planted(12, 5), tiny()
    kept = item_logprobs(model, items, micro=4)
    figures = examine_pairs(model, items, kept, 0.1, ["one"] * 12, micro=4)
    assert figures["accuracy"]["before"] == figures["accuracy"]["after"]
    assert figures["kl"] == {"chosen": 0, "rejected": 0} and figures["reward"]["accuracy"] == 0
    alone = examine_pairs(model, items, None, 0.1, ["one"] * 12, micro=5)
    assert alone["accuracy"]["after"] == figures["accuracy"]["after"]
    assert "before" not in alone["accuracy"] and "kl" not in alone
    averages = (kept.view(-1, 2) / torch.tensor([[len(a) for a in i.answers] for i in items])).tolist()
    assert figures["accuracy"]["after"] == sum(c > r for c, r in averages) / 12


def test_what_does_not_fit_is_refused() -> None:
    items, model = planted(3, 0), tiny()
    loader = PairLoader(items, 2, 0)
    with pytest.raises(ValueError, match="needs a reference"):
        PreferenceObjective(model, items, loader, "dpo", 0.1, None, 1)
    with pytest.raises(ValueError, match="needs no reference"):
        PreferenceObjective(model, items, loader, "orpo", 0.1, torch.zeros(6), 1)
    with pytest.raises(ValueError, match="does not fit 3 pairs"):
        PreferenceObjective(model, items, loader, "dpo", 0.1, torch.zeros(5), 1)
    with pytest.raises(ValueError, match="a pair has two"):
        PreferenceObjective(model, [Prompted((3,), ((4,),))], loader, "dpo", 0.1, torch.zeros(2), 1)
    batch = pack_for(model, items)
    assert answer_logprobs(model, batch).shape == (6,)
