"""Rounding to the nearest with a searched scale."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.compress.rounding import nearest
from cadran.errors import UserError
from cadran.model.gguf.quantization import dequantise, quantise

KINDS = ("Q4_0", "Q4_1", "Q8_0")


def matrix(seed, rows=8, columns=96, power=1):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) ** power


def error(weight, values):
    return ((weight - values) ** 2).view(len(weight), -1, 32).sum(2)


@given(seed=st.integers(0, 999), power=st.sampled_from([1, 3]))
def test_without_a_text_q4_0_is_that_of_every_exporter(seed, power):
    weight = matrix(seed, power=power)
    usual = torch.from_numpy(dequantise("Q4_0", quantise("Q4_0", weight.numpy()), tuple(weight.shape)))
    assert torch.equal(nearest(weight, "Q4_0").values(), usual)


@given(seed=st.integers(0, 999), power=st.sampled_from([1, 3]), kind=st.sampled_from(["Q4_0", "Q4_1"]))
def test_a_searched_scale_makes_less_error(seed, power, kind):
    weight = matrix(seed, power=power)
    usual = torch.from_numpy(dequantise("Q4_0", quantise("Q4_0", weight.numpy()), tuple(weight.shape)))
    ours = error(weight, nearest(weight, kind, torch.ones(96)).values()).sum()
    assert ours < 0.98 * error(weight, usual).sum()


def test_minima_help_where_weights_lie_on_one_side():
    weight = matrix(0).abs() + 3
    errors = {kind: error(weight, nearest(weight, kind).values()).sum() for kind in KINDS}
    assert errors["Q4_1"] < errors["Q4_0"] / 4
    assert errors["Q8_0"] < errors["Q4_1"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0.0, 1e-30, -0.75, 60_000.0])
def test_equal_weights_keep_their_value(kind, value):
    weight = torch.full((2, 32), value)
    assert torch.allclose(nearest(weight, kind).values(), weight, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e6])
def test_weights_that_no_group_can_hold_are_refused(kind, value):
    weight = matrix(0)
    weight[3, 40] = value
    with pytest.raises(UserError, match="infinite, not a number or beyond float16"):
        nearest(weight, kind)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_an_important_column_is_rounded_better(kind):
    weight = matrix(1, rows=256, columns=32)
    importance = torch.ones(32)
    importance[5] = 1000.0
    plain, told = (nearest(weight, kind, given).values()[:, 5] for given in (torch.ones(32), importance))
    assert ((told - weight[:, 5]) ** 2).sum() < 0.3 * ((plain - weight[:, 5]) ** 2).sum()


def test_every_weight_is_within_half_a_step_at_8_bits():
    weight = matrix(2)
    quantised = nearest(weight, "Q8_0")
    far = (quantised.values() - weight).abs().view(-1, 3, 32)
    assert bool((far <= quantised.scale[:, :, None] * 0.57).all())  # float16 moves the scale
