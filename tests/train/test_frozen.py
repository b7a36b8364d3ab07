import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.model.config import ModelConfig
from cadran.model.gguf.legacy_quants import pack_q4_0, unpack_q4_0
from cadran.model.lora import LoraConfig, add_adapter, merge, without_adapter
from cadran.model.lora_linear import LoraLinear
from cadran.model.transformer import Transformer
from cadran.train.frozen import (
    FrozenLinear,
    FrozenLinear4,
    FrozenLinear8,
    byte_product,
    exact_bytes,
    freeze_base,
    quantise_rows,
    thaw_base,
    turned,
)

CONFIG = ModelConfig(97, 2, 64, 4, 2, 16, 96, 32)
IDS = torch.tensor([[3, 14, 15, 92, 65, 35, 89, 79]])


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def tiny() -> Transformer:
    """A model whose every parameter is away from zero."""
    model = Transformer(CONFIG, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def adapted(model: Transformer) -> Transformer:
    """With an adapter whose B is not zero."""
    add_adapter(model, LoraConfig(rank=4, alpha=8.0), seed=3)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_B"):
                parameter.normal_(0.0, 0.05, generator=generator)
    return model


def adapter_gradients(model: Transformer) -> dict[str, Tensor]:
    model.zero_grad()
    model(IDS).log_softmax(-1)[0, :-1].gather(-1, IDS[0, 1:, None]).mean().neg().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 9),
    st.integers(1, 70),
    st.integers(1, 70),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**16),
    st.booleans(),
)
def test_eight_bits_forward_is_within_the_rounding_of_the_activations(
    rows: int, inputs: int, outputs: int, scale: float, seed: int, biased: bool
) -> None:
    x, weight = noise(rows, inputs, seed=seed, scale=scale), noise(outputs, inputs, seed=seed + 1)
    bias = noise(outputs, seed=seed + 2) if biased else None
    layer = FrozenLinear8(weight, bias)
    matrix = layer.unfolded().double()
    expected = x.double() @ matrix.t() + (0 if bias is None else bias.double())
    half_steps = turned(x).double().abs().amax(1, keepdim=True) / 127 / 2
    bound = half_steps * turned(layer.unfolded()).double().abs().sum(1) * 1.001 + expected.abs() * 1e-5 + 1e-6
    assert bool(((layer(x).double() - expected).abs() <= bound).all())


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 70), st.integers(1, 70), st.floats(1e-6, 1e3), st.integers(0, 2**16))
def test_eight_bits_input_gradient_is_that_of_the_forward_matrix_within_its_rounding(
    rows: int, inputs: int, outputs: int, scale: float, seed: int
) -> None:
    layer = FrozenLinear8(noise(outputs, inputs, seed=seed) * noise(outputs, 1, seed=seed + 3))
    x = noise(rows, inputs, seed=seed + 1).requires_grad_()
    gradient = noise(rows, outputs, seed=seed + 2, scale=scale)
    layer(x).backward(gradient)
    expected = gradient.double() @ layer.unfolded().double()
    half_steps = (gradient.double() * layer.scales.double()).abs().amax(1, keepdim=True) / 127 / 2
    bound = half_steps * layer.levels.double().abs().sum(0) * 1.001 + 1e-5 * expected.abs().amax()
    assert x.grad is not None
    assert bool((turned((x.grad.double() - expected).float()).abs() <= bound).all())


@pytest.mark.parametrize("seed", range(3))
def test_eight_bit_weights_are_within_half_a_step_of_the_floats(seed: int) -> None:
    weight = noise(37, 53, seed=seed)
    layer = FrozenLinear8(weight)
    steps = turned(weight).abs().amax(1, keepdim=True) / 127
    assert bool((turned(layer.unfolded() - weight).abs() <= steps * 0.501).all())
    assert int(layer.levels.abs().max()) == 127


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 40), st.integers(0, 2**16))
def test_a_row_has_the_same_bits_whatever_rows_are_beside_it(rows: int, seed: int) -> None:
    layer = FrozenLinear8(noise(48, 64, seed=5))
    x = noise(rows, 64, seed=seed) * 10 ** noise(rows, 1, seed=seed + 1)
    gradient = noise(rows, 48, seed=seed + 2)
    together, apart = x.clone().requires_grad_(), x.clone().requires_grad_()
    layer(together).backward(gradient)
    for row in range(rows):
        layer(apart[row : row + 1]).backward(gradient[row : row + 1])
    assert together.grad is not None and apart.grad is not None
    assert torch.equal(layer(x), torch.cat([layer(one[None]) for one in x]))
    assert torch.equal(layer(x), layer(x))
    assert torch.equal(together.grad, apart.grad)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 70), st.integers(1, 40), st.integers(0, 2**16), st.booleans())
def test_a_product_of_bytes_is_exact_whatever_its_shape_and_layout(
    rows: int, inner: int, columns: int, seed: int, contiguous: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randint(-127, 128, (rows, inner), dtype=torch.int8, generator=generator)
    right = torch.randint(-127, 128, (columns, inner), dtype=torch.int8, generator=generator).t()
    expected = left.double() @ right.double()
    assert torch.equal(byte_product(left, right.contiguous() if contiguous else right).double(), expected)


def test_a_processor_whose_bytes_overflow_multiplies_in_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = noise(24, 576), noise(5, 576, seed=1)
    exact = FrozenLinear8(weight)(x)

    def overflowing(left: Tensor, right: Tensor) -> Tensor:
        return (left.int() @ right.int()).clamp(-32768, 32767)

    monkeypatch.setattr(torch, "_int_mm", overflowing)
    exact_bytes.cache_clear()
    try:
        assert not exact_bytes()
        assert torch.allclose(FrozenLinear8(weight)(x), exact, rtol=1e-5, atol=1e-5)
    finally:
        exact_bytes.cache_clear()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 200), st.integers(0, 2**16))
def test_turning_twice_is_nothing_and_keeps_lengths(rows: int, width: int, seed: int) -> None:
    x = noise(rows, width, seed=seed)
    assert torch.allclose(turned(turned(x)), x, atol=1e-5)
    assert torch.allclose(turned(x).norm(dim=1), x.norm(dim=1), rtol=1e-5)


def test_one_huge_channel_does_not_drown_the_others() -> None:
    weight, x = noise(32, 64), noise(16, 64, seed=1)
    x[:, 7] *= 300  # as in trained models; bytes with a scale of their own size would leave the rest at zero
    exact = x @ weight.t()
    rest = exact - x[:, 7:8] @ weight[:, 7:8].t()
    off = (FrozenLinear8(weight)(x) - exact).norm() / rest.norm()
    plain_levels, scale = quantise_rows(x)
    plain_off = ((plain_levels.float() * scale) @ weight.t() - exact).norm() / rest.norm()
    assert float(off) < float(plain_off) / 2


def test_sums_of_the_widest_magnitudes_do_not_overflow() -> None:
    """127 * 127 * 4096 needs 27 bits, of which a float keeps 24: exact in integers, rounded once."""
    layer = FrozenLinear8(torch.ones(3, 4096))
    assert torch.allclose(layer(torch.ones(2, 4096)), torch.full((2, 3), 4096.0), rtol=1e-6, atol=0)
    assert torch.allclose(layer(-torch.ones(2, 4096)), torch.full((2, 3), -4096.0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_number_that_is_none_spoils_its_own_row_and_no_other(bad: float) -> None:
    layer, x = FrozenLinear8(noise(8, 16)), noise(3, 16, seed=1)
    spoilt = x.clone()
    spoilt[1, 5] = bad
    result = layer(spoilt)
    assert bool(result[1].isnan().all())
    assert torch.equal(result[[0, 2]], layer(x)[[0, 2]])


def test_rows_of_zeros_give_the_bias() -> None:
    bias = noise(8)
    assert torch.equal(FrozenLinear8(noise(8, 16), bias)(torch.zeros(2, 16)), bias.expand(2, 8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", [FrozenLinear8, FrozenLinear4])
def test_results_and_gradients_have_the_type_and_shape_of_the_input(
    kind: type[FrozenLinear8] | type[FrozenLinear4], dtype: torch.dtype
) -> None:
    x = noise(2, 3, 64).to(dtype).requires_grad_()
    result = kind(noise(8, 64), noise(8))(x)
    result.sum().backward()
    assert result.dtype == dtype and result.shape == (2, 3, 8)
    assert x.grad is not None and x.grad.dtype == dtype and x.grad.shape == x.shape


@pytest.mark.parametrize("inputs", [32, 64, 576])
def test_four_bits_unfold_to_what_the_format_says(inputs: int) -> None:
    weight = noise(24, inputs).numpy()
    expected = np.empty((24 * inputs // 32, 32), np.float32)
    unpack_q4_0(pack_q4_0(weight.reshape(-1, 32)), expected)
    assert np.array_equal(FrozenLinear4(torch.from_numpy(weight)).unfolded().numpy(), expected.reshape(24, inputs))


@pytest.mark.parametrize("inputs", [32, 50, 96])
def test_four_bits_are_the_product_with_the_unfolded_matrix_both_ways(inputs: int) -> None:
    layer = FrozenLinear4(noise(40, inputs), noise(40, seed=1))
    assert layer.bias is not None
    x, gradient = noise(7, inputs, seed=2).requires_grad_(), noise(7, 40, seed=3)
    result = layer(x)
    result.backward(gradient)
    matrix = layer.unfolded().double()
    assert torch.allclose(result.double(), x.double() @ matrix.t() + layer.bias.double(), atol=1e-4)
    assert x.grad is not None and torch.allclose(x.grad.double(), gradient.double() @ matrix, atol=1e-4)


@pytest.mark.parametrize(("bits", "least"), [(8, 3.5), (4, 6.5)])
def test_a_frozen_map_is_small(bits: int, least: float) -> None:
    weight = noise(256, 512)
    layer = FrozenLinear8(weight) if bits == 8 else FrozenLinear4(weight)
    kept = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert weight.numel() * 4 / kept > least
    assert not list(layer.parameters())


@pytest.mark.parametrize("bits", [8, 4])
def test_all_maps_of_the_blocks_are_replaced_and_nothing_else(bits: int) -> None:
    model = tiny()
    embedding = model.model.embed_tokens.weight.detach().clone()
    freeze_base(model, 8 if bits == 8 else 4)
    frozen = [path for path, module in model.named_modules() if isinstance(module, FrozenLinear)]
    assert len(frozen) == 7 * CONFIG.layers and all(path.startswith("model.layers.") for path in frozen)
    assert not any(type(module) is nn.Linear for module in model.model.layers.modules())
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("bits", [8, 4])
def test_freezing_before_and_after_an_adapter_is_added_gives_the_same_bits(bits: int) -> None:
    width = 8 if bits == 8 else 4
    before, after = tiny(), adapted(tiny())
    freeze_base(before, width)
    adapted(before)
    freeze_base(after, width)
    one, other = adapter_gradients(before), adapter_gradients(after)
    assert one.keys() == other.keys() and one and all("lora_" in name for name in one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(isinstance(module, LoraLinear) and isinstance(module.base, FrozenLinear) for module in after.modules())


@pytest.mark.parametrize(("bits", "least"), [(8, 0.99), (4, 0.9)])
def test_adapters_learn_nearly_what_they_learn_upon_floats(bits: int, least: float) -> None:
    plain, frozen = adapted(tiny()), adapted(tiny())
    freeze_base(frozen, 8 if bits == 8 else 4)
    one, other = adapter_gradients(plain), adapter_gradients(frozen)
    flat = [torch.cat([gradients[name].flatten() for name in sorted(one)]) for gradients in (one, other)]
    assert float(torch.cosine_similarity(flat[0], flat[1], dim=0)) > least


def test_a_quantised_base_is_not_merged_but_the_floats_given_back_are() -> None:
    original = tiny()
    weights = copy.deepcopy(original.state_dict())
    expected = adapted(original)
    model = adapted(tiny())
    freeze_base(model, 8)
    with pytest.raises(UserError, match="floating point"):
        merge(model)
    thaw_base(model, weights)
    merge(model)
    merge(expected)
    assert all(torch.equal(tensor, expected.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_floats_of_another_model_are_refused_and_nothing_is_changed() -> None:
    model = tiny()
    freeze_base(model, 8)
    with pytest.raises(UserError, match="q_proj"):
        thaw_base(model, {"model.layers.0.self_attn.q_proj.weight": torch.zeros(3, 3)})
    assert sum(isinstance(module, FrozenLinear) for module in model.modules()) == 7 * CONFIG.layers


def test_magnitudes_need_floats() -> None:
    model = tiny()
    add_adapter(model, LoraConfig(rank=4, dora=True), seed=0)
    with pytest.raises(UserError, match="DoRA"):
        freeze_base(model, 8)
    frozen = tiny()
    freeze_base(frozen, 8)
    with pytest.raises(UserError, match="floating point"):
        add_adapter(frozen, LoraConfig(rank=4, dora=True), seed=0)


def test_weights_that_are_not_finite_are_named() -> None:
    model = tiny()
    with torch.no_grad():
        model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.up_proj"):
        freeze_base(model, 8)


def test_the_base_alone_is_what_it_is_without_an_adapter() -> None:
    bare, model = tiny(), adapted(tiny())
    freeze_base(bare, 8)
    freeze_base(model, 8)
    with torch.no_grad(), without_adapter(model):
        assert torch.equal(model(IDS), bare(IDS))


def test_bytes_are_rounded_to_nearest_and_reach_127() -> None:
    levels, scale = quantise_rows(torch.tensor([[127.0, -63.6, 0.4, -0.6], [0.0, 0.0, 0.0, 0.0]]))
    assert levels.tolist() == [[127, -64, 0, -1], [0, 0, 0, 0]]
    assert float(scale[0, 0]) == 1.0
