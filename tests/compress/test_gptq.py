"""Error feedback."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inputs import correlated

from cadran.compress.gptq import gptq, output_error, refitted
from cadran.compress.rounding import nearest


def drawn(seed, rows=24, columns=128, samples=512):
    x = correlated(samples, columns, seed)
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed + 1000))
    return weight, (x.T @ x / samples).double()


@settings(max_examples=15)
@given(seed=st.integers(0, 999), kind=st.sampled_from(["Q4_0", "Q4_1", "Q8_0"]))
def test_outputs_change_less_than_by_rounding_each_weight(seed, kind):
    weight, hessian = drawn(seed)
    rounded = output_error(weight, nearest(weight, kind), hessian).sum()
    weighed = output_error(weight, nearest(weight, kind, hessian.diagonal()), hessian).sum()
    assert output_error(weight, gptq(weight, hessian, kind), hessian).sum() < 0.7 * min(rounded, weighed)


@settings(max_examples=15)
@given(seed=st.integers(0, 999), kind=st.sampled_from(["Q4_0", "Q4_1"]))
def test_fitting_the_scales_makes_no_row_worse(seed, kind):
    weight, hessian = drawn(seed)
    before = nearest(weight, kind)
    after = refitted(weight, before, hessian)
    assert torch.equal(after.levels, before.levels)
    assert bool((output_error(weight, after, hessian) <= output_error(weight, before, hessian)).all())
    assert output_error(weight, after, hessian).sum() < output_error(weight, before, hessian).sum()


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0"])
def test_inputs_that_were_never_seen_leave_plain_rounding(kind):
    weight, _ = drawn(0)
    found = gptq(weight, torch.zeros(128, 128, dtype=torch.float64), kind)
    assert torch.equal(found.values(), nearest(weight, kind).values())


def test_fewer_inputs_than_columns_and_a_dead_one_are_no_obstacle():
    x = correlated(16, 128)
    x[:, 40] = 0
    weight, _ = drawn(3)
    hessian = (x.T @ x / 16).double()
    found = gptq(weight, hessian, "Q4_0")
    assert bool(found.values().isfinite().all())
    assert output_error(weight, found, hessian).sum() < output_error(weight, nearest(weight, "Q4_0"), hessian).sum()
    # Nothing is known of the dead column, so it is kept as well as its group allows.
    step = found.scale[:, 1].abs()
    assert bool(((found.values()[:, 40] - weight[:, 40]).abs() < 2 * step).all())
