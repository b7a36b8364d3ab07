import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import own_step
import peer_litgpt
import peer_nanogpt
import peer_transformers
from adamw_step import AdamWStep
from cadran.corpus.shards import EncodedDocument, write_shard
from cadran.errors import UserError
from cadran.model.config import ModelConfig
from peer_nanogpt import NanoGPT, NanoPlan, NanoShape, NanoTrainer

SHAPE = ModelConfig(
    vocabulary=64, layers=2, width=32, heads=2, kv_heads=2, head_width=16, hidden=96, context=16, tied=True
)
ROWS = 4
LLAMA = SHAPE.parameters - SHAPE.layers * 2 * SHAPE.head_width  # Cadran alone has norms on queries and keys
NANO = (64 + 16) * 32 + 2 * (12 * 32 * 32 + 2 * 32) + 32


def missing(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


SIDES = [
    pytest.param(own_step.make_step, SHAPE.parameters, id="ours"),
    pytest.param(peer_transformers.make_step, LLAMA, id="transformers", marks=missing("transformers")),
    pytest.param(peer_litgpt.make_step, LLAMA, id="litgpt", marks=missing("litgpt")),
    pytest.param(peer_nanogpt.make_step, NANO, id="nanogpt"),
]
every_side = pytest.mark.parametrize(("make_step", "parameters"), SIDES)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only wait for a second one
    yield
    torch.set_num_threads(threads)


@every_side
def test_side_has_the_parameters_of_its_shape(make_step, parameters):
    model = make_step(SHAPE, ROWS, threads=1).model
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@every_side
def test_first_loss_is_near_that_of_a_uniform_guess(make_step, parameters):
    step = make_step(SHAPE, ROWS, threads=1)
    assert step.loss(*step.draw()).item() == pytest.approx(math.log(SHAPE.vocabulary), abs=0.1)


@every_side
def test_steps_lower_the_loss_on_a_fixed_batch(make_step, parameters):
    step = make_step(SHAPE, ROWS, threads=1)
    batch = step.draw()
    losses = [step.on(*batch) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.02


@every_side
def test_calling_a_step_trains_on_another_batch_and_returns_seconds(make_step, parameters):
    step = make_step(SHAPE, ROWS, threads=1)
    before = [parameter.detach().clone() for parameter in step.model.parameters()]
    assert step() > 0
    assert any(not torch.equal(old, new) for old, new in zip(before, step.model.parameters(), strict=True))
    assert not torch.equal(step.draw()[0], step.draw()[0])


@every_side
def test_batch_counts_the_tokens_that_are_reported(make_step, parameters):
    ids = make_step(SHAPE, ROWS, threads=1).draw()[0]
    assert ids.shape in [(ROWS, SHAPE.context), (ROWS, SHAPE.context + 1)]
    assert ids.min() >= 0 and ids.max() < SHAPE.vocabulary


def test_own_rows_hold_up_to_three_documents_in_order():
    _, segments = own_step.make_step(SHAPE, 64, threads=1).draw()
    assert segments.shape == (64, SHAPE.context)
    assert (segments.diff(dim=1) >= 0).all()
    assert (segments[:, 0] == 0).all() and set(segments.unique().tolist()) == {0, 1, 2}


def test_gradients_are_clipped_before_the_update():
    model = torch.nn.Linear(1, 1, bias=False)
    step = AdamWStep(model, lambda x: 1e6 * model(x).sum(), lambda: (torch.ones(1, 1),))
    seen = []
    step.optimizer.register_step_pre_hook(lambda *_: seen.append(model.weight.grad.norm().item()))
    step()
    assert seen == [pytest.approx(1.0)]
    assert model.weight.grad is None


def nano(seed=0):
    return NanoGPT(NanoShape(vocabulary=64, layers=2, width=32, heads=2, context=16), seed)


def test_later_token_does_not_change_earlier_logits():
    model, ids = nano(), torch.arange(16)[None] % 64
    changed = ids.clone()
    changed[0, 9] = 63
    with torch.no_grad():
        before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :9], before[:, :9])
    assert ((after - before).abs().amax(-1)[0, 9:] > 1e-4).all()


def test_nano_position_matters():
    with torch.no_grad():
        logits = nano()(torch.zeros(1, 16, dtype=torch.int64))
    assert not torch.allclose(logits[0, 0], logits[0, 1], atol=1e-4)


def test_nano_starts_from_its_documented_deviations():
    model = NanoGPT(NanoShape(vocabulary=512, layers=8, width=128, heads=2, context=64), seed=1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            expected = 0.02 / 4 if name.endswith(("attention_out.weight", "mlp_out.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(expected, rel=0.05), name


@pytest.mark.parametrize("layers, width", [(4, 256), (6, 384), (8, 512), (12, 768)])
def test_matching_shape_is_within_three_percent(layers, width):
    heads = width // 64
    ours = ModelConfig(4096, layers, width, heads, heads, 64, -(-8 * width // 3 // 32) * 32, 256)
    shape = NanoShape.matching(ours)
    assert abs(shape.parameters / ours.parameters - 1) <= 0.03
    assert (shape.layers, shape.heads, shape.width % heads) == (layers, heads, 0)


def test_no_matching_shape_is_said():
    with pytest.raises(UserError, match="--width"):
        NanoShape.matching(ModelConfig(8, 1, 4, 4, 4, 2, 6, 4), tolerance=0.001)


def test_rate_rises_to_the_peak_and_falls_to_a_tenth():
    plan = NanoPlan(steps=200, rows=1, rate=1e-3, seed=0)
    rates = [plan.rate_at(step) for step in range(201)]
    assert rates[0] == pytest.approx(1e-4) and rates[10] == max(rates) == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[105] == pytest.approx(0.55e-3) and rates[200] == pytest.approx(1e-4)


def test_weight_decay_reaches_matrices_and_no_vector():
    trainer = NanoTrainer(nano(), np.arange(100) % 64, NanoPlan(steps=1, rows=2, rate=1e-3, seed=0))
    decays = {
        parameter.ndim: group["weight_decay"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {2: 0.1, 1: 0.0}
    counted = sum(len(group["params"]) for group in trainer.optimizer.param_groups)
    assert counted == len(list(trainer.model.parameters()))


def test_windows_are_contiguous_cover_the_ends_and_follow_the_seed():
    stream = np.arange(20, dtype=np.uint16)
    plan = NanoPlan(steps=1, rows=200, rate=1e-3, seed=3)
    windows = NanoTrainer(nano(), stream, plan).windows(0)
    assert windows.shape == (200, 17)
    assert (windows.diff(dim=1) == 1).all()
    assert set(windows[:, 0].tolist()) == {0, 1, 2, 3}
    again = NanoTrainer(nano(), stream, plan)
    assert torch.equal(again.windows(0), windows) and not torch.equal(again.windows(1), windows)


def test_nano_learns_a_short_cycle_and_is_observed_on_time():
    model = nano()
    trainer = NanoTrainer(model, np.tile(np.arange(8, dtype=np.uint16), 40), NanoPlan(50, rows=4, rate=6e-3, seed=0))
    losses, steps = [], []

    def observe(step):
        steps.append(step)
        ids = trainer.windows(10_000)
        losses.append(F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).item())

    trainer.run(observe, observe_every=20)
    assert steps == [0, 20, 40, 50]
    assert losses[0] > 3.9 and losses[-1] < 0.5


def test_corpus_shorter_than_a_window_is_refused():
    with pytest.raises(UserError, match="17"):
        NanoTrainer(nano(), np.arange(16), NanoPlan(steps=1, rows=1, rate=1e-3, seed=0))


def test_stream_keeps_one_end_of_text_between_documents(tmp_path):
    texts = [[0, 5, 6, 0], [0, 7, 0], [8, 9], [0, 4, 0]]
    documents = [EncodedDocument(np.array(ids), 1, "en") for ids in texts]
    shard = write_shard(tmp_path, documents, vocabulary=64)
    assert peer_nanogpt.token_stream(shard).tolist() == [0, 5, 6, 0, 7, 0, 8, 9, 0, 4, 0]
