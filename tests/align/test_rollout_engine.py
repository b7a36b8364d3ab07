"""Where rollouts come from: the policy as it stands, in place or repacked, and never an older one."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import CONFIG, PARAMS, names, policy, prompts

from cadran.align.branches import Prompted, pack_for
from cadran.align.logprobs import model_logprobs
from cadran.align.losses.policy import importance_weights
from cadran.align.rollout import Rollout, sample_rollouts
from cadran.align.rollout_engine import NativeRollouts, RolloutSource, TorchRollouts, open_rollouts
from cadran.engine.native import library
from cadran.engine.native.layout import Kind, pack_blocks, pack_floats, quantised
from cadran.engine.native.repack import Repacked, pack_f32, pack_int8
from cadran.errors import UserError
from cadran.model.config import Latent
from cadran.model.lora import LoraConfig, add_adapter, without_adapter
from cadran.model.transformer import Transformer
from cadran.train.frozen import freeze_base

needs_core = pytest.mark.skipif(not library.available(), reason=str(library.why_not()))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(source: RolloutSource, each: int = 4) -> list[Rollout]:
    return sample_rollouts(source, prompts(), each, PARAMS, 5, 0, decode=names)


def mismatch(model: Transformer, found: list[Rollout]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the trainer and of the engine."""
    items = [Prompted(prompts()[r.prompt].ids, (r.ids,)) for r in found]
    trainer = model_logprobs(model, pack_for(model, items))[0].detach()
    return trainer, torch.tensor([p for r in found for p in r.engine_logprobs])


def adapted(seed: int = 0, dropout: float = 0.5) -> Transformer:
    model = policy(seed)
    add_adapter(model, LoraConfig(rank=4, alpha=8, dropout=dropout), seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(9))
    return model


def changed(model: Transformer) -> None:
    """An update of everything that is trained."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize(
    "name", ["torch", pytest.param("f32", marks=needs_core), pytest.param("int8", marks=needs_core)]
)
@pytest.mark.parametrize("adapter", [False, True])
def test_after_an_update_nothing_is_left_of_the_weights_before(name: str, adapter: bool) -> None:
    """Neither weights nor keys and values: the same prompts are asked, which a prefix cache would know."""
    make = adapted if adapter else policy
    model = make()
    source, reason = open_rollouts(model, name)  # type: ignore[arg-type]
    assert reason == ""
    before = drawn(source)
    changed(model)
    after = drawn(source)
    fresh = make()
    changed(fresh)
    assert after == drawn(open_rollouts(fresh, name)[0])  # type: ignore[arg-type]
    assert after != before


def test_drawing_leaves_the_model_in_its_mode_and_without_gradients() -> None:
    model = adapted().train()
    found = drawn(TorchRollouts(model))
    assert model.training and all(parameter.grad is None for parameter in model.parameters())
    assert found == drawn(TorchRollouts(model.eval())), "dropout was off"
    model.zero_grad()
    trainer, engine = mismatch(model, found)
    assert (trainer - engine).abs().max() < 1e-4
    with without_adapter(model):
        assert (mismatch(model, found)[0] - engine).abs().max() > 1e-2, "the adapter acted"


@needs_core
@pytest.mark.parametrize("make", [policy, adapted])
def test_the_core_in_f32_draws_from_the_trainers_policy(make: type) -> None:
    model = make()
    trainer, engine = mismatch(model, drawn(NativeRollouts(model, "f32")))
    assert (trainer - engine).abs().max() < 2e-4


@needs_core
@pytest.mark.parametrize("make", [policy, adapted])
def test_the_core_in_int8_is_off_by_a_little_and_the_weights_are_near_one(make: type) -> None:
    model = make()
    trainer, engine = mismatch(model, drawn(NativeRollouts(model, "int8")))
    assert 1e-5 < (trainer - engine).abs().mean() < 0.05
    weights = importance_weights(trainer, engine, 2.0)
    assert (weights - 1).abs().max() < 0.2 and (weights - 1).abs().max() > 1e-4


@needs_core
def test_only_what_is_trained_is_laid_out_again() -> None:
    model = adapted()
    copy = Repacked(model, Kind.I8)
    copy.refresh()
    written: list[str] = []
    original = copy._bytes

    def noted(name: str, role: int) -> Any:
        written.append(name)
        return original(name, role)

    copy._bytes = noted  # type: ignore[method-assign]
    copy.refresh()
    assert written and all("self_attn" in name or "mlp" in name for name in written)
    with torch.no_grad():
        model.get_parameter("model.norm.weight").mul_(2.0)  # frozen, and changed nevertheless
    written.clear()
    copy.refresh()
    assert "model.norm.weight" in written
    copy.close()


@settings(max_examples=25)
@given(rows=st.integers(1, 50), columns=st.integers(1, 150), seed=st.integers(0, 99))
def test_laying_out_in_torch_gives_the_bytes_of_the_file_format(rows: int, columns: int, seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    weights = generator.standard_normal((rows, columns)).astype(np.float32)
    weights[:, : columns // 2] = np.round(weights[:, : columns // 2] * 254) / 2  # halves, to be rounded away from zero
    weights[generator.random(rows) < 0.1] = 0
    tensor = torch.from_numpy(weights)
    assert pack_f32(tensor) == pack_floats(weights, Kind.F32)
    with np.errstate(divide="ignore"):
        assert pack_int8(tensor) == pack_blocks(quantised(weights), Kind.I8)


def test_a_matrix_larger_than_a_piece_is_laid_out_alike() -> None:
    weights = np.random.Generator(np.random.PCG64(0)).standard_normal((1000, 300)).astype(np.float32)
    assert pack_int8(torch.from_numpy(weights)) == pack_blocks(quantised(weights), Kind.I8)


def test_what_the_core_does_not_run_is_drawn_by_torch_with_the_reason() -> None:
    model = policy(latent=Latent(query_rank=0, rank=12, plain=8, rotary=4, value=6), qk_norm=None, kv_heads=2)
    source, reason = open_rollouts(model)
    assert source.name == "torch" and ("latent" in reason or not library.available())
    assert len(drawn(source)) == 24
    with pytest.raises(UserError, match="rollouts='int3'"):
        open_rollouts(model, "int3")  # type: ignore[arg-type]


@needs_core
def test_an_untied_head_of_an_adapter_is_packed_as_such() -> None:
    assert CONFIG.tied
    model = policy()
    add_adapter(model, LoraConfig(rank=2, whole=("lm_head",), tied=False), 0)
    changed(model)
    trainer, engine = mismatch(model, drawn(NativeRollouts(model, "f32")))
    assert (trainer - engine).abs().max() < 2e-4


@needs_core
def test_a_frozen_base_is_laid_out_once_and_the_adapter_brought_as_it_is_now() -> None:
    model = adapted()
    source = NativeRollouts(model, "f32")
    trainer, engine = mismatch(model, drawn(source))
    first = source._opened(1)
    changed(model)  # a step of the optimizer
    assert (mismatch(model, drawn(source))[0] - mismatch(model, drawn(source))[1]).abs().max() < 2e-4
    assert (trainer - engine).abs().max() < 2e-4 and source._opened(1) is first
    with torch.no_grad():
        model.get_parameter("model.norm.weight").mul_(1.5)  # frozen, and changed nevertheless
    trainer, engine = mismatch(model, drawn(source))
    assert (trainer - engine).abs().max() < 2e-4 and source._opened(1) is not first
    source.close()


@needs_core
def test_what_is_more_than_low_rank_maps_is_merged() -> None:
    model = policy()
    add_adapter(model, LoraConfig(rank=2, dora=True), 0)
    changed(model)
    source = NativeRollouts(model, "f32")
    trainer, engine = mismatch(model, drawn(source))
    assert (trainer - engine).abs().max() < 2e-4 and source._base is None


@needs_core
@pytest.mark.parametrize("bits", [8, 4])
def test_a_base_in_few_bits_is_drawn_from_as_it_stands(bits: Literal[8, 4]) -> None:
    model = adapted().eval()
    freeze_base(model, bits)
    source = NativeRollouts(model, "f32")
    trainer, engine = mismatch(model, drawn(source))
    # In 8 bits the trainer rounds its activations too, which the core in float32 does not.
    assert (trainer - engine).abs().mean() < (0.05 if bits == 8 else 2e-4)
    opened = source._opened(1)
    drawn(source)
    assert source._opened(1) is opened
    source.close()
