"""Learning rewards: exact however a batch is cut, resumable to the byte, and it separates what it was taught."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from noisy import woken

from cadran.align.branches import Prompted, pack_for
from cadran.align.calibration import calibrate
from cadran.align.pair_loader import PairLoader
from cadran.align.reward_model import RewardModel
from cadran.align.reward_objective import RewardObjective, examine_rewards
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


def planted(count: int, seed: int) -> list[Prompted]:
    """Prompts with an answer in even tokens, which is preferred, and one in odd tokens."""
    generator = np.random.Generator(np.random.PCG64(seed))

    def answer(odd: int) -> tuple[int, ...]:
        return (*(2 * generator.integers(1, 15, generator.integers(1, 6)) + odd).tolist(), STOP)

    return [
        Prompted(tuple(generator.integers(2, 32, generator.integers(1, 7)).tolist()), (answer(0), answer(1)))
        for _ in range(count)
    ]


def reward_model(seed: int = 0, noise: float = 0.2, dtype: torch.dtype = torch.float32) -> RewardModel:
    transformer = Transformer(CONFIG, seed=seed)
    generator = torch.Generator().manual_seed(seed + 100)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * noise)
    return RewardModel(transformer.to(dtype), seed=seed)


def gradients(model: RewardModel, objective: RewardObjective, step: int) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = objective.gradients(step).loss
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert sum(float(g.abs().sum()) for g in found) > 0.1
    return loss, found


def test_gradients_do_not_depend_on_how_a_batch_is_cut() -> None:
    items, model = planted(12, 0), reward_model(dtype=torch.float64)
    margins = [0.1 * number for number in range(12)]
    results = []
    for micro in (5, 2, 1):
        objective = RewardObjective(model, items, margins, PairLoader(items, 5, 1), micro, centring=0.01)
        results.append(gradients(model, objective, 2))
    for loss, found in results[1:]:
        assert loss == pytest.approx(results[0][0], abs=1e-12)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, results[0][1], strict=True))


def test_loss_and_gradient_are_those_of_the_formula_on_single_pairs() -> None:
    items, model = planted(6, 0), reward_model(dtype=torch.float64)
    margins = [0.3 * number for number in range(6)]
    loader = PairLoader(items, 4, 1)
    loss, found = gradients(model, RewardObjective(model, items, margins, loader, 4, centring=0.05), 0)
    model.zero_grad()
    expected = torch.zeros((), dtype=torch.float64)
    for index in loader.batch(0):
        single = [Prompted(items[index].prompt, (answer,)) for answer in items[index].answers]
        better, worse = (model.scores(pack_for(model.transformer, [one]))[0] for one in single)
        expected = expected - F.logsigmoid(better - worse - margins[index]) + 0.05 * (better + worse) ** 2
    (expected / 4).backward()
    assert loss == pytest.approx(float(expected.detach() / 4), abs=1e-12)
    alone = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, alone, strict=True))


def test_dropout_is_off_while_it_learns_and_is_examined() -> None:
    items, found = planted(8, 0), []
    for dropout in (0.0, 0.5):
        model = reward_model()
        add_adapter(model.transformer, LoraConfig(rank=2, dropout=dropout), 0)
        woken(model)
        model.train()
        loss = RewardObjective(model, items, None, PairLoader(items, 8, 0), 4).gradients(0).loss
        model.train()
        found.append((loss, examine_rewards(model, items, ["one"] * 8, micro=4)))
    assert found[0] == found[1]


def test_figures_are_those_of_the_scores() -> None:
    items, model = planted(8, 3), reward_model()
    learnt = RewardObjective(model, items, None, PairLoader(items, 8, 0), 3).gradients(0)
    with torch.no_grad():
        scores = model.scores(pack_for(model.transformer, items)).view(-1, 2)
    assert learnt.figures["accuracy"] == float((scores[:, 0] > scores[:, 1]).double().mean())
    assert learnt.figures["chosen_reward"] == pytest.approx(float(scores[:, 0].mean()), abs=1e-6)
    assert learnt.figures["rejected_reward"] == pytest.approx(float(scores[:, 1].mean()), abs=1e-6)
    assert learnt.figures["margin"] == pytest.approx(float((scores[:, 0] - scores[:, 1]).mean()), abs=1e-6)
    assert learnt.tokens == sum(len(i.prompt) + sum(map(len, i.answers)) for i in items)
    assert learnt.named.startswith("pairs ")


PLAN = TrainingPlan(
    steps=5, micro_rows=1, precision="fp32", optimizer=OptimizerConfig(), schedule=Schedule(5), observe_every=100,
    checkpoint_seconds=0.0,
)  # fmt: skip


def trainer_of(folder: Path, events: list[dict[str, Any]], die_at: int = 0) -> Trainer:
    """Everything made anew, as by a process that starts; it dies in the middle of step ``die_at``."""
    items, model = planted(10, 0), reward_model()
    objective = RewardObjective(model, items, None, PairLoader(items, 4, 1), 2, torch.float32)
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
def test_it_separates_held_out_pairs_of_a_planted_preference(seed: int, tmp_path: Path) -> None:
    items, held_out = planted(300, seed), planted(200, 1000 + seed)
    model = reward_model(seed, noise=0.02)
    kinds = ["short" if len(item.prompt) < 4 else "long" for item in held_out]
    before = examine_rewards(model, held_out, kinds, micro=50)
    plan = replace(PLAN, steps=40, schedule=Schedule(40), checkpoint_seconds=1e9)
    objective = RewardObjective(model, items, None, PairLoader(items, 16, seed), 16, torch.float32, centring=0.01)
    Trainer(model, objective, plan, tmp_path, {}, lambda event: None).run()
    after = examine_rewards(model, held_out, kinds, micro=50)
    assert before["accuracy"] < 0.75
    assert after["accuracy"] > 0.85
    low, high = after["interval"]
    assert low <= after["accuracy"] <= high and high - low < 0.1
    weighted = sum(held["accuracy"] * held["pairs"] for held in after["by_kind"].values()) / 200
    assert set(after["by_kind"]) == {"short", "long"} and weighted == pytest.approx(after["accuracy"])
    assert sum(held["pairs"] for held in after["calibration"]) == 200
    assert 0 <= after["calibration_error"] < 0.2


def drawn(count: int, seed: int) -> tuple[list[float], list[float]]:
    """Score differences of a model that knows the true probabilities, and of one thrice as sure."""
    generator = np.random.Generator(np.random.PCG64(seed))
    truth = generator.normal(0, 1.5, count)
    first_wins = generator.random(count) < 1 / (1 + np.exp(-truth))
    differences = np.where(first_wins, truth, -truth)
    return differences.tolist(), (3 * differences).tolist()


def test_calibration_tells_a_truthful_model_from_a_boastful_one() -> None:
    truthful, boastful = (calibrate(differences, seed=4) for differences in drawn(20_000, 0))
    assert truthful.error < 0.015
    assert boastful.error > 0.1
    assert all(abs(held.predicted - held.observed) < 0.05 for held in truthful.bins)
    # Orientations are drawn: low probabilities occur, and are observed to be low.
    assert truthful.bins[0].predicted < 0.1 and truthful.bins[0].observed < 0.1
    assert sum(held.pairs for held in truthful.bins) == 20_000
    assert calibrate(drawn(50, 1)[0], seed=4) == calibrate(drawn(50, 1)[0], seed=4)


def test_calibration_survives_any_difference() -> None:
    sure = calibrate([1e9, 800.0, 5000.0], seed=0)
    assert sure.error == pytest.approx(0)
    assert calibrate([-1e9], seed=0).error == pytest.approx(1)
    with pytest.raises(ValueError, match="no pair"):
        calibrate([], seed=0)


def test_items_that_are_no_pairs_are_refused() -> None:
    items, model = planted(3, 0), reward_model()
    with pytest.raises(ValueError, match="item 0 has 1 answers"):
        RewardObjective(model, [Prompted((3,), ((4,),))], None, PairLoader(items, 2, 0), 1)
    with pytest.raises(ValueError, match="2 margins do not fit 3 pairs"):
        RewardObjective(model, items, [0.0, 1.0], PairLoader(items, 2, 0), 1)
