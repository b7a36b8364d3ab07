"""KTO as training: its baseline comes from strangers and carries no gradient; exact however cut; it learns."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noisy import woken

from cadran.align.branches import Prompted, pack_for, per_answer
from cadran.align.kto_objective import KtoObjective, mismatched
from cadran.align.logprobs import model_logprobs
from cadran.align.pair_loader import PairLoader
from cadran.align.preference_objective import examine_pairs
from cadran.align.reference import adapter_off, frozen, item_logprobs
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


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


def planted(count: int, seed: int) -> tuple[list[Prompted], list[bool]]:
    """Answers in even tokens are good, those in odd tokens are not."""
    generator = np.random.Generator(np.random.PCG64(seed))
    items, labels = [], []
    for _ in range(count):
        good = bool(generator.random() < 0.5)
        answer = (2 * generator.integers(1, 15, generator.integers(1, 6)) + (not good)).tolist()
        items.append(Prompted(tuple(generator.integers(2, 32, generator.integers(1, 7)).tolist()), ((*answer, STOP),)))
        labels.append(good)
    return items, labels


def tiny(seed: int = 0, noise: float = 0.2) -> Transformer:
    model = Transformer(CONFIG, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return model


def test_answers_are_put_behind_the_prompt_of_the_next_stranger() -> None:
    items = [
        Prompted((1, 2), ((10,),)),
        Prompted((3,), ((11, 12),)),
        Prompted((3,), ((13,),)),
        Prompted((4,), ((14,),)),
    ]
    found = mismatched(items, context=8)
    assert [item.prompt for item in found] == [(3,), (4,), (4,), (1, 2)]
    assert [item.answers for item in found] == [item.answers for item in items]
    assert mismatched([items[1], items[2]], context=8) == []


def test_a_strangers_prompt_that_is_too_long_loses_its_beginning() -> None:
    items = [Prompted((1, 2, 3, 4), ((5,),)), Prompted((6,), ((7, 8, 9),))]
    assert mismatched(items, context=5)[1] == Prompted((3, 4), ((7, 8, 9),))


def ratios(model: Transformer, other: Transformer, items: list[Prompted]) -> torch.Tensor:
    batch = pack_for(model, items)
    return per_answer(model_logprobs(model, batch)[0], batch) - frozen(other)(batch)


def test_loss_and_gradient_are_those_of_the_formula_with_a_constant_baseline() -> None:
    items, labels = planted(6, 0)
    model, other = tiny().double(), tiny(seed=9, noise=0.6).double()
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    loader = PairLoader(items, 6, 0)
    learnt = KtoObjective(model, items, labels, loader, 0.2, frozen(other), 6, **weights).gradients(1)
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    batch = [items[i] for i in loader.batch(1)]
    good = torch.tensor([labels[i] for i in loader.batch(1)])
    moved = Prompted(batch[1].prompt, batch[0].answers)
    assert mismatched(batch, CONFIG.context)[0] == moved
    baseline = ratios(model, other, mismatched(batch, CONFIG.context)).detach().mean().clamp(min=0)
    assert float(baseline) > 0 and learnt.figures["kl"] == pytest.approx(float(baseline), abs=1e-12)
    model.zero_grad()
    surplus = 0.2 * (ratios(model, other, batch) - baseline)
    losses = torch.where(good, 1.5 * (1 - torch.sigmoid(surplus)), 0.5 * (1 - torch.sigmoid(-surplus)))
    losses.mean().backward()
    assert learnt.loss == pytest.approx(float(losses.mean().detach()), abs=1e-12)
    alone = [p.grad for p in model.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in found) > 0.01
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, alone, strict=True))


def test_gradients_do_not_depend_on_how_a_batch_is_cut() -> None:
    items, labels = planted(9, 1)
    model, other = tiny().double(), tiny(seed=9).double()
    results = []
    for micro in (5, 2, 1):
        model.zero_grad()
        learnt = KtoObjective(model, items, labels, PairLoader(items, 5, 1), 0.2, frozen(other), micro).gradients(2)
        results.append((learnt, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    for learnt, found in results[1:]:
        assert learnt.loss == pytest.approx(results[0][0].loss, abs=1e-12)
        assert learnt.figures == pytest.approx(results[0][0].figures, abs=1e-10)
        assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, results[0][1], strict=True))


def test_first_loss_of_a_fresh_adapter_is_a_half_to_the_last_bit() -> None:
    items, labels = planted(8, 0)
    model = tiny()
    add_adapter(model, LoraConfig(rank=2, dropout=0.3), seed=0)
    model.train()
    loader = PairLoader(items, 8, 0)
    learnt = KtoObjective(model, items, labels, loader, 0.1, adapter_off(model), 3, torch.float32).gradients(0)
    assert learnt.loss == 0.5 and learnt.figures["kl"] == 0


def test_dropout_is_off_whatever_mode_the_model_was_left_in() -> None:
    """A fresh adapter would not tell: what is dropped of its input is multiplied by zero."""
    (items, labels), found = planted(8, 0), []
    for dropout in (0.0, 0.5):
        model = tiny()
        add_adapter(model, LoraConfig(rank=2, dropout=dropout), seed=0)
        woken(model)
        model.train()
        objective = KtoObjective(model, items, labels, PairLoader(items, 8, 0), 0.1, adapter_off(model), 3)
        found.append(objective.gradients(1))
    assert found[0].loss == found[1].loss != 0.5 and found[0].figures == found[1].figures


PLAN = TrainingPlan(
    steps=5, micro_rows=1, precision="fp32", optimizer=OptimizerConfig(adapter_rate=0.02), schedule=Schedule(5),
    observe_every=100, checkpoint_seconds=0.0,
)  # fmt: skip


def trainer_of(folder: Path, events: list[dict[str, Any]], die_at: int = 0) -> Trainer:
    items, labels = planted(10, 0)
    model = tiny()
    add_adapter(model, LoraConfig(rank=2), seed=0)
    loader = PairLoader(items, 4, 1)
    objective = KtoObjective(model, items, labels, loader, 0.1, adapter_off(model, torch.float32), 3, torch.float32)
    original = objective.gradients

    def dying(step: int) -> Any:
        learnt = original(step)
        if die_at and step + 1 == die_at:
            raise KeyboardInterrupt
        return learnt

    objective.gradients = dying  # type: ignore[method-assign]
    plan = replace(PLAN, checkpoint_seconds=0.0 if die_at else 1e9)
    return Trainer(model, objective, plan, folder, {"recipe": "test"}, events.append)


def test_training_left_and_gone_on_with_ends_in_the_same_bytes(tmp_path: Path) -> None:
    never = trainer_of(tmp_path / "never", [])
    never.run()
    with pytest.raises(KeyboardInterrupt):
        trainer_of(tmp_path / "parts", [], die_at=3).run()
    events: list[dict[str, Any]] = []
    resumed = trainer_of(tmp_path / "parts", events)
    resumed.run()
    assert events[0] == {"kind": "resumed", "step": 2}
    pairs = zip(never.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_learns_a_planted_preference_from_single_answers(seed: int, tmp_path: Path) -> None:
    items, labels = planted(300, seed)
    model = tiny(seed)
    good, bad = (
        [i for i, label in zip(*planted(400, 1000 + seed), strict=True) if label is kind] for kind in (True, False)
    )
    held_out = [Prompted(a.prompt, (a.answers[0], b.answers[0])) for a, b in zip(good, bad, strict=False)]
    before = item_logprobs(model, held_out, micro=50)
    add_adapter(model, LoraConfig(rank=4), seed=seed)
    loader = PairLoader(items, 16, seed)
    plan = replace(PLAN, steps=100, schedule=Schedule(100), checkpoint_seconds=1e9)
    reference = adapter_off(model, torch.float32)
    objective = KtoObjective(model, items, labels, loader, 0.5, reference, 16, torch.float32)
    Trainer(model, objective, plan, tmp_path, {}, lambda event: None).run()
    figures = examine_pairs(model, held_out, before, 0.5, ["planted"] * len(held_out), micro=50)
    assert len(held_out) > 150
    assert figures["accuracy"]["before"] < 0.75 and figures["accuracy"]["after"] > 0.9


def test_what_cannot_be_mismatched_is_refused() -> None:
    items, labels = planted(4, 0)
    model = tiny()
    with pytest.raises(UserError, match="the batch is 1"):
        KtoObjective(model, items, labels, PairLoader(items, 1, 0), 0.1, frozen(tiny()), 1)
    same = [replace(item, prompt=(3,)) for item in items]
    with pytest.raises(UserError, match="two different prompts"):
        KtoObjective(model, same, labels, PairLoader(same, 2, 0), 0.1, frozen(tiny()), 1)
    with pytest.raises(ValueError, match="3 labels do not fit 4 answers"):
        KtoObjective(model, items, labels[:3], PairLoader(items, 2, 0), 0.1, frozen(tiny()), 1)
