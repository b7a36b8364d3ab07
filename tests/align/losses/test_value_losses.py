"""The value head's loss against the formula, and its gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.losses.value import clipped_value_losses

NUMBERS = st.floats(-5, 5)


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@given(value=NUMBERS, old=NUMBERS, wanted=NUMBERS, clip=st.floats(0, 2))
def test_a_value_has_the_loss_of_the_formula(value: float, old: float, wanted: float, clip: float) -> None:
    near = old + min(max(value - old, -clip), clip)
    found = clipped_value_losses(f64([value]), f64([old]), f64([wanted]), clip)
    assert found.item() == pytest.approx(0.5 * max((value - wanted) ** 2, (near - wanted) ** 2), abs=1e-12)


def test_the_clip_is_pessimistic() -> None:
    """A value that jumped on to its return still pays for where the clip holds it, and learns nothing from that."""
    values = f64([2.0]).requires_grad_()
    losses = clipped_value_losses(values, f64([0.0]), f64([2.0]), 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(0.5 * 1.8**2)
    assert values.grad is not None and values.grad.item() == 0.0


def test_value_losses_pass_finite_differences() -> None:
    values, old = f64([0.1, 0.9, -0.9, 0.05]).requires_grad_(), torch.zeros(4, dtype=torch.float64)
    returns = f64([1.0, -1.0, -1.0, -0.5])
    assert torch.autograd.gradcheck(lambda each: clipped_value_losses(each, old, returns, 0.2), (values,))


def test_extreme_values_are_finite_and_a_negative_clip_is_refused() -> None:
    values = torch.tensor([1e4, -1e4], requires_grad=True)
    losses = clipped_value_losses(values, torch.zeros(2), torch.tensor([-1e4, 1e4]), 0.2)
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(values.grad).all()
    with pytest.raises(ValueError, match="clip is -1"):
        clipped_value_losses(values, values, values, -1.0)
