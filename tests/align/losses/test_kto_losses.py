"""KTO: the golden numbers, its bounds, its baseline without a gradient."""

import pytest
import torch

from cadran.align.losses.kto import kto_baseline, kto_losses

GOOD, BAD = torch.tensor([True]), torch.tensor([False])


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_kto_has_the_golden_numbers() -> None:
    found = kto_losses(f64([1.5, 1.5]), torch.tensor([True, False]), 0.2, beta=0.1)
    torch.testing.assert_close(found, f64([0.467546, 0.532454]), rtol=0, atol=1e-6)


def test_the_weights_multiply_their_kind_of_answer_in_the_precision_of_the_input() -> None:
    ratio, kinds = f64([1.5, -0.3, 2.0]), torch.tensor([True, False, True])
    plain = kto_losses(ratio, kinds, 0.2, beta=0.1)
    weighted = kto_losses(ratio, kinds, 0.2, beta=0.1, desirable_weight=1.33, undesirable_weight=0.7)
    torch.testing.assert_close(weighted, plain * f64([1.33, 0.7, 1.33]), rtol=1e-14, atol=0)


def test_a_good_answer_wants_a_higher_ratio_and_a_bad_one_a_lower() -> None:
    ratio = f64([0.4, 0.4]).requires_grad_()
    kto_losses(ratio, torch.tensor([True, False]), 0.1, beta=0.5).sum().backward()
    assert ratio.grad is not None and ratio.grad[0] < 0 < ratio.grad[1]


def test_kto_passes_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    ratio = torch.randn(6, generator=generator, dtype=torch.float64, requires_grad=True)
    kinds = torch.arange(6) % 2 == 0
    assert torch.autograd.gradcheck(
        lambda each: kto_losses(each, kinds, 0.3, beta=0.7, undesirable_weight=1.5), (ratio,)
    )


def test_the_baseline_is_a_mean_never_below_zero_and_carries_no_gradient() -> None:
    mismatched = f64([1.0, 2.0, -0.6]).requires_grad_()
    baseline = kto_baseline(mismatched)
    assert baseline.item() == pytest.approx(0.8) and not baseline.requires_grad
    assert kto_baseline(-mismatched).item() == 0.0
    # A baseline that was given with a gradient is cut off here as well.
    ratio = f64([0.5]).requires_grad_()
    kto_losses(ratio, GOOD, mismatched.mean(), beta=0.1).sum().backward()
    assert mismatched.grad is None and ratio.grad is not None
    with pytest.raises(ValueError, match="at least one"):
        kto_baseline(f64([]))


@pytest.mark.parametrize("kind", [GOOD, BAD])
def test_extreme_ratios_stay_between_nothing_and_the_weight(kind: torch.Tensor) -> None:
    for value in (-2e4, 2e4):
        ratio = torch.tensor([value], requires_grad=True)
        found = kto_losses(ratio, kind, 0.0, beta=1.0)
        found.sum().backward()
        assert found.item() == float((value < 0) == bool(kind))
        assert ratio.grad is not None and torch.isfinite(ratio.grad).all()


def test_the_tail_of_a_well_liked_answer_does_not_round_to_nothing() -> None:
    assert kto_losses(f64([50.0]), GOOD, 0.0, beta=1.0).item() == pytest.approx(1.928749847963918e-22, rel=1e-12, abs=0)
