"""The training loop: exact under accumulation, packing, interruption; it learns; it stops when it must."""

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cadran.corpus.shards import EncodedDocument, TokenShard, write_shard
from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.transformer import Transformer
from cadran.train.loader import TokenLoader
from cadran.train.machine import DTYPES
from cadran.train.next_token import NextToken
from cadran.train.objective import Learnt
from cadran.train.optimizers import OptimizerConfig, make_optimizers
from cadran.train.schedule import Schedule
from cadran.train.trainer import Interrupted, Trainer, TrainingPlan

CONFIG = ModelConfig(
    vocabulary=40, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, context=16, tied=True
)
PLAN = TrainingPlan(
    steps=12, micro_rows=4, precision="fp32", optimizer=OptimizerConfig(), schedule=Schedule(12), observe_every=5,
    checkpoint_seconds=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> TokenShard:
    generator = np.random.Generator(np.random.PCG64(0))
    documents = [
        EncodedDocument(np.concatenate(([0], generator.integers(1, 40, n), [0])), int(n), "en")
        for n in generator.integers(1, 40, 30)
    ]
    return write_shard(tmp_path_factory.mktemp("shard"), documents, 40)


def trainer_of(
    shard: TokenShard,
    folder: Path,
    plan: TrainingPlan = PLAN,
    events: list[dict[str, Any]] | None = None,
    rows: int = 4,
) -> Trainer:
    log = [] if events is None else events
    objective = objective_of(shard, TokenLoader(shard, CONFIG.context, rows, seed=3), plan)
    return Trainer(objective.model, objective, plan, folder, {"recipe": "test"}, log.append)


def objective_of(shard: TokenShard, loader: TokenLoader | None = None, plan: TrainingPlan = PLAN) -> NextToken:
    loader = loader or TokenLoader(shard, CONFIG.context, 4, seed=3)
    return NextToken(Transformer(CONFIG, seed=1), loader, plan.micro_rows, DTYPES[plan.precision])


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return [p.detach().clone() for p in trainer.model.parameters()]


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_interrupted_and_resumed_training_ends_in_the_same_bytes(
    shard: TokenShard, tmp_path: Path, optimizer: str
) -> None:
    plan = replace(PLAN, optimizer=OptimizerConfig(name=optimizer))  # type: ignore[arg-type]
    whole = trainer_of(shard, tmp_path / "whole", plan)
    whole.run()
    for stop_after in (1, 7):
        first = trainer_of(shard, tmp_path / str(stop_after), plan)
        original = first.step

        def step(number: int, original: Any = original, last: int = stop_after) -> Learnt:
            if number == last - 1:
                os.kill(os.getpid(), signal.SIGINT)
            learnt: Learnt = original(number)
            return learnt

        first.step = step  # type: ignore[method-assign]
        with pytest.raises(Interrupted, match=f"after step {stop_after} of 12"):
            first.run()
        events: list[dict[str, Any]] = []
        second = trainer_of(shard, tmp_path / str(stop_after), plan, events)
        second.run()
        assert {"kind": "resumed", "step": stop_after} in events
        assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(second), strict=True))


def test_accumulated_micro_batches_give_the_gradient_of_the_whole_batch(shard: TokenShard) -> None:
    gradients = []
    for micro in (6, 2, 1):
        loader = TokenLoader(shard, CONFIG.context, 6, seed=3)
        objective = objective_of(shard, loader, replace(PLAN, micro_rows=micro))
        batch = loader.batch(2)  # holds the short last row of the epoch: ragged masks
        loss = objective.loss_and_gradients(batch)
        gradients.append((loss, [p.grad.clone() for p in objective.model.parameters() if p.grad is not None]))
    for loss, pieces in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], abs=1e-6)
        for a, b in zip(pieces, gradients[0][1], strict=True):
            assert torch.allclose(a, b, atol=1e-6)


def test_padding_does_not_change_the_gradient(shard: TokenShard) -> None:
    """The same documents in rows of 40 with padding and in rows packed full."""
    results = []
    for split in (True, False):
        loader = TokenLoader(shard, 41, 30, seed=3, split=split)
        objective = objective_of(shard, loader)
        objective.model.config = replace(CONFIG, context=41)
        loader.rows = loader.rows_in_epoch()
        batch = loader.batch(0)
        assert batch.valid == loader.pairs
        results.append((split, (batch.targets < 0).sum().item(), objective.loss_and_gradients(batch)))
    assert results[1][1] > results[0][1]  # the second really had more padding
    # Cutting a document takes context away from its second half, so only padding is compared here:
    alone = 0.0
    loader = TokenLoader(shard, 60, 1, seed=3, split=False)
    objective = objective_of(shard, loader)
    for row in range(loader.rows_in_epoch()):
        batch = loader.batch(row)
        alone += objective.loss_and_gradients(batch) * batch.valid
    assert alone / loader.pairs == pytest.approx(results[1][2], abs=1e-5)


def test_one_batch_is_learnt_by_heart(shard: TokenShard, tmp_path: Path) -> None:
    plan = replace(PLAN, steps=400, schedule=Schedule(400), checkpoint_seconds=1e9)
    trainer = trainer_of(shard, tmp_path, plan, rows=2)
    fixed = loader_of(trainer).batch(0)
    loader_of(trainer).batch = lambda step: fixed  # type: ignore[method-assign]
    for number in range(400):
        loss = trainer.step(number).loss
    # Each document begins after the same token, so its first word can only be guessed: learn the rest.
    assert loss < 0.5
    batch = replace_first_targets(fixed)
    trainer = trainer_of(shard, tmp_path, plan, rows=2)
    loader_of(trainer).batch = lambda step: batch  # type: ignore[method-assign]
    for number in range(400):
        loss = trainer.step(number).loss
    assert loss < 0.01


def loader_of(trainer: Trainer) -> TokenLoader:
    assert isinstance(trainer.objective, NextToken)
    return trainer.objective.loader


def replace_first_targets(batch: Any) -> Any:
    """The batch without the target after each document's beginning and after a cut, which nothing foretells."""
    targets = batch.targets.clone()
    begins = torch.ones_like(batch.segments, dtype=torch.bool)
    begins[:, 1:] = batch.segments[:, 1:] != batch.segments[:, :-1]
    targets[begins] = -100
    return replace(batch, targets=targets, valid=int((targets >= 0).sum()))


def test_first_loss_is_the_logarithm_of_the_vocabulary(shard: TokenShard, tmp_path: Path) -> None:
    assert trainer_of(shard, tmp_path).step(0).loss == pytest.approx(np.log(40), abs=0.05)


def test_a_loss_that_is_not_finite_stops_and_names_the_documents(shard: TokenShard, tmp_path: Path) -> None:
    trainer = trainer_of(shard, tmp_path)
    with torch.no_grad():
        dict(trainer.model.named_parameters())["model.norm.weight"][0] = torch.nan
    documents = {piece.document for row in loader_of(trainer).batch(0).rows for piece in row}
    with pytest.raises(UserError, match="at step 0 on documents") as caught:
        trainer.run()
    assert str(min(documents)) in str(caught.value) and "base.matrix_rate" in str(caught.value)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(shard: TokenShard, tmp_path: Path) -> None:
    whole = trainer_of(shard, tmp_path / "whole")
    whole.run()
    trainer_of(shard, tmp_path / "hurt").run()
    kept = sorted((tmp_path / "hurt").glob("step-*"))
    assert [p.name for p in kept] == ["step-00000011", "step-00000012"]
    damaged = kept[-1] / "weights.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    events: list[dict[str, Any]] = []
    again = trainer_of(shard, tmp_path / "hurt", events=events)
    again.run()
    notices = [e["text"] for e in events if e["kind"] == "notice"]
    assert len(notices) == 1 and kept[-1].name in notices[0] and "the one before it was used" in notices[0]
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def test_only_damaged_checkpoints_are_an_error_not_a_silent_restart(shard: TokenShard, tmp_path: Path) -> None:
    trainer_of(shard, tmp_path / "base" / "checkpoints").run()
    for state in tmp_path.rglob("state.json"):
        state.write_text("{")
    with pytest.raises(UserError, match="delete the folder checkpoints"):
        trainer_of(shard, tmp_path / "base" / "checkpoints").run()


def test_a_checkpoint_of_another_recipe_is_not_resumed(shard: TokenShard, tmp_path: Path) -> None:
    trainer_of(shard, tmp_path).run()
    other = trainer_of(shard, tmp_path)
    other.identity = {"recipe": "another"}
    events: list[dict[str, Any]] = []
    other.record = events.append
    other.run()
    assert events[0] == {"kind": "started", "step": 0}


def test_an_unfinished_checkpoint_is_not_seen(shard: TokenShard, tmp_path: Path) -> None:
    (tmp_path / ".writing").mkdir(parents=True)
    (tmp_path / ".writing" / "state.json").write_text(json.dumps({"step": 9}))
    events: list[dict[str, Any]] = []
    trainer_of(shard, tmp_path, events=events).run()
    assert events[0] == {"kind": "started", "step": 0}


def test_every_parameter_has_exactly_one_optimizer_and_only_matrices_decay() -> None:
    model = Transformer(CONFIG, seed=0)
    for name in ("muon", "adamw"):
        config = OptimizerConfig(name=name, weight_decay=0.1)
        seen: list[int] = []
        for optimizer in make_optimizers(model, config):
            for group in optimizer.param_groups:
                seen += [id(p) for p in group["params"]]
                if group["weight_decay"]:
                    assert all(p.ndim == 2 and p is not model.lm_head.weight for p in group["params"])
        assert sorted(seen) == sorted(id(p) for p in model.parameters())


def test_schedules_rise_stay_and_fall() -> None:
    wsd = Schedule(100, warmup=0.1, decay=0.4, final=0.0)
    factors = [wsd.factor(s) for s in range(100)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == 1.0
    assert all(f == 1.0 for f in factors[9:60])
    assert all(a > b > 0 for a, b in pairwise(factors[60:]))
    cosine = Schedule(100, warmup=0.1, final=0.1, shape="cosine")
    assert cosine.factor(10) == pytest.approx(1.0) and 0.1 < cosine.factor(99) < 0.11


def test_bf16_follows_fp32_closely(shard: TokenShard, tmp_path: Path) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        trainer = trainer_of(shard, tmp_path / precision, replace(PLAN, precision=precision))
        losses[precision] = [trainer.step(n).loss for n in range(12)]
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], abs=0.05)
    assert losses["bf16"] != losses["fp32"]
