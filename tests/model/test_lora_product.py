"""Several adapted maps in one step, against the same arithmetic left to autograd."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cadran.model.linear import project
from cadran.model.lora_linear import LoraLinear, LowRank
from cadran.model.lora_product import Part, fits, low_rank_products


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def parts_of(seed: int, inputs: int, outputs: list[int], rank: int, biased: bool) -> tuple[list[Part], list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    parts, factors = [], []
    for number, width in enumerate(outputs):
        base = nn.Linear(inputs, width, bias=biased, dtype=torch.float64).requires_grad_(False)
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.copy_(drawn(generator, *parameter.shape))
        own = rank + number  # ranks differ from map to map
        a, b = drawn(generator, own, inputs).requires_grad_(), drawn(generator, width, own).requires_grad_()
        parts.append(Part(base, a, b, 0.5 + number))
        factors += [a, b]
    return parts, factors


def plain(x: Tensor, part: Part) -> Tensor:
    base = part.base
    assert isinstance(base, nn.Linear)
    return F.linear(x, base.weight, base.bias) + part.scale * F.linear(F.linear(x, part.a), part.b)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**16), st.integers(1, 9), st.lists(st.integers(1, 9), min_size=1, max_size=3), st.booleans())
def test_outputs_and_all_gradients_are_those_of_autograd(
    seed: int, inputs: int, outputs: list[int], biased: bool
) -> None:
    parts, factors = parts_of(seed, inputs, outputs, 2, biased)
    generator = torch.Generator().manual_seed(seed + 1)
    x = drawn(generator, 2, 3, inputs).requires_grad_()
    weights = [drawn(generator, 2, 3, width) for width in outputs]
    ours = low_rank_products(x, parts)
    theirs = [plain(x, part) for part in parts]
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(ours, theirs, strict=True))
    wanted = [x, *factors]
    got = torch.autograd.grad(sum((y * w).sum() for y, w in zip(ours, weights, strict=True)), wanted)
    expected = torch.autograd.grad(sum((y * w).sum() for y, w in zip(theirs, weights, strict=True)), wanted)
    assert all(torch.allclose(one, other, atol=1e-10) for one, other in zip(got, expected, strict=True))


def test_gradients_agree_with_finite_differences() -> None:
    parts, factors = parts_of(0, 5, [3, 4], 2, True)
    x = drawn(torch.Generator().manual_seed(1), 4, 5).requires_grad_()

    def function(x: Tensor, *factors: Tensor) -> tuple[Tensor, ...]:
        pairs = zip(parts, factors[::2], factors[1::2], strict=True)
        return low_rank_products(x, [part._replace(a=a, b=b) for part, a, b in pairs])

    assert torch.autograd.gradcheck(function, (x, *factors))


def test_an_input_that_needs_no_gradient_gets_none_and_the_factors_get_theirs() -> None:
    parts, factors = parts_of(0, 5, [3], 2, False)
    x = drawn(torch.Generator().manual_seed(1), 4, 5)
    low_rank_products(x, parts)[0].sum().backward()
    assert x.grad is None and all(factor.grad is not None for factor in factors)


def test_one_output_that_nobody_uses_adds_nothing() -> None:
    parts, factors = parts_of(0, 5, [3, 4], 2, False)
    x = drawn(torch.Generator().manual_seed(1), 4, 5).requires_grad_()
    low_rank_products(x, parts)[0].sum().backward()
    (expected,) = torch.autograd.grad(plain(x, parts[0]).sum(), x)
    assert x.grad is not None and torch.allclose(x.grad, expected)
    assert factors[2].grad is None or not bool(factors[2].grad.any())


def test_only_the_input_and_a_few_columns_are_kept_for_the_backward_pass() -> None:
    parts, _ = parts_of(0, 64, [32, 32], 2, False)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    x = drawn(torch.Generator().manual_seed(1), 128, 64).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        low_rank_products(x, parts)
    bases = {part.base.weight.data_ptr() for part in parts if isinstance(part.base, nn.Linear)}
    assert not bases & {tensor.data_ptr() for tensor in kept}
    assert sum(tensor.shape[0] == 128 and tensor.shape[1] > 8 for tensor in kept) == 1


def adapted(seed: int, width: int) -> LoraLinear:
    (part,), _ = parts_of(seed, 6, [width], 2, False)
    layer = LoraLinear(part.base)
    layer.adapters["own"] = LowRank(nn.Parameter(part.a.detach()), nn.Parameter(part.b.detach()), part.scale)
    layer.active = "own"
    return layer


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_maps_together_give_what_each_gives_alone(dropout: float) -> None:
    layers = [adapted(seed, 3 + seed) for seed in range(3)]
    layers[1].adapters["own"].dropout = dropout  # in evaluation mode nothing is dropped
    for layer in layers:
        layer.eval()
    x = drawn(torch.Generator().manual_seed(9), 2, 4, 6).requires_grad_()
    together = project(x, *layers)
    assert all(torch.allclose(one, layer(x), atol=1e-12) for one, layer in zip(together, layers, strict=True))
    with torch.no_grad():
        apart = project(x, *layers)
    assert all(torch.allclose(one, other, atol=1e-12) for one, other in zip(together, apart, strict=True))


def test_a_base_that_learns_is_left_to_autograd() -> None:
    layer = adapted(0, 3)
    base = layer.base
    assert isinstance(base, nn.Linear) and fits(base)
    base.weight.requires_grad_(True)
    assert not fits(base)
    layer(drawn(torch.Generator().manual_seed(9), 2, 6)).sum().backward()
    assert base.weight.grad is not None


def test_one_map_without_an_adapter_makes_all_run_alone() -> None:
    layers = [adapted(0, 3), adapted(1, 4)]
    layers[1].active = None
    x = drawn(torch.Generator().manual_seed(9), 2, 6)
    both = project(x, *layers)
    assert torch.equal(both[1], F.linear(x, layers[1].weight))
    assert torch.allclose(both[0], layers[0](x))
