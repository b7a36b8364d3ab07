"""Bradley-Terry: the golden numbers, margin and centring, no overflow."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.losses.reward import bradley_terry_losses


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_bradley_terry_has_the_golden_numbers() -> None:
    found = bradley_terry_losses(f64([1.0, -0.3, 100.0, 0.0]), f64([0.5, 0.7, 0.0, 100.0]))
    torch.testing.assert_close(found, f64([0.474077, 1.313262, 0.0, 100.0]), rtol=0, atol=1e-6)


def test_equal_rewards_cost_ln_2_and_a_margin_moves_the_point_where_they_do() -> None:
    assert bradley_terry_losses(f64([3.0]), f64([3.0])).item() == pytest.approx(math.log(2), abs=1e-12)
    margins = f64([0.5, 2.0])
    found = bradley_terry_losses(f64([1.5, 3.0]), f64([1.0, 1.0]), margins)
    torch.testing.assert_close(found, f64([math.log(2)] * 2))


@given(chosen=st.floats(-50, 50), rejected=st.floats(-50, 50), shift=st.floats(-20, 20))
def test_only_centring_sees_a_shift_of_all_rewards(chosen: float, rejected: float, shift: float) -> None:
    better, worse = f64([chosen]), f64([rejected])
    plain = bradley_terry_losses(better, worse)
    torch.testing.assert_close(bradley_terry_losses(better + shift, worse + shift), plain, rtol=1e-9, atol=1e-9)
    added = bradley_terry_losses(better, worse, centring=0.01) - plain
    assert added.item() == pytest.approx(0.01 * (chosen + rejected) ** 2, abs=1e-9)


def test_bradley_terry_passes_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = [torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(lambda a, b, m: bradley_terry_losses(a, b, m, 0.05), rewards)


def test_extreme_rewards_give_finite_losses_and_gradients() -> None:
    rewards = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4])] * 2)
    better, worse = (column.clone().requires_grad_() for column in rewards.T)
    found = bradley_terry_losses(better, worse)
    found.sum().backward()
    assert torch.isfinite(found).all() and found.max() == 2e4
    assert torch.isfinite(better.grad).all() and torch.isfinite(worse.grad).all()
