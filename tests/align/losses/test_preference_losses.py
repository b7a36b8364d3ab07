"""Losses on pairs: the published numbers, finite differences, and no input that overflows."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.losses.preference import (
    AVERAGED,
    REFERENCE_FREE,
    SMOOTHED,
    PreferenceLoss,
    log1mexp,
    odds_ratio_losses,
    preference_losses,
)

KINDS: tuple[PreferenceLoss, ...] = get_args(PreferenceLoss)
# Sums of log-probabilities of three pairs, policy and reference; their log-ratios differ by 0, 10 and 20.
CHOSEN, REJECTED = [-0.5, -10.0, -1.0], [-0.1, -30.0, -21.0]
REFERENCE = [-0.5, -10.1, -0.1], [-0.1, -20.1, -0.1]


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def losses(kind: PreferenceLoss, *sums: torch.Tensor, **settings: float) -> torch.Tensor:
    """The loss with lengths of one, so that sums are averages, and the smoothing that the kind needs."""
    ones = torch.ones_like(sums[0])
    settings = {"beta": 0.1} | ({"smoothing": 0.1} if kind in SMOOTHED else {}) | settings
    return preference_losses(kind, *sums, chosen_lengths=ones, rejected_lengths=ones, **settings)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dpo", [0.693147, 0.313262, 0.126928]),
        ("cdpo", [0.693147, 0.413262, 0.326928]),
        ("robust", [0.693147, 0.188262, -0.123072]),
        ("hinge", [1.0, 0.0, 0.0]),
        ("ipo", [25.0, 25.0, 225.0]),
    ],
)
def test_losses_with_a_reference_have_the_golden_numbers(kind: PreferenceLoss, expected: list[float]) -> None:
    found = losses(kind, f64(CHOSEN), f64(REJECTED), f64(REFERENCE[0]), f64(REFERENCE[1]))
    torch.testing.assert_close(found, f64(expected), rtol=0, atol=1e-6)


def test_the_gradient_of_dpo_has_the_golden_numbers() -> None:
    chosen = f64(CHOSEN).requires_grad_()
    losses("dpo", chosen, f64(REJECTED), f64(REFERENCE[0]), f64(REFERENCE[1])).sum().backward()
    torch.testing.assert_close(chosen.grad, f64([-0.05, -0.026894, -0.011920]), rtol=0, atol=1e-6)


def test_losses_without_a_reference_have_the_golden_numbers() -> None:
    chosen, rejected = f64([-0.5]), f64([-1.2])
    assert odds_ratio_losses(chosen, rejected).item() == pytest.approx(0.246553, abs=1e-6)
    assert losses("orpo", chosen, rejected, beta=0.3).item() == pytest.approx(0.5 + 0.3 * 0.246553, abs=1e-6)
    assert losses("simpo", chosen, rejected, beta=2.0, gamma=0.5).item() == pytest.approx(0.341154, abs=1e-6)


@pytest.mark.parametrize("kind", sorted(AVERAGED))
def test_losses_on_averages_divide_policy_and_reference_by_the_lengths(kind: PreferenceLoss) -> None:
    sums = [f64([-6.0, -3.0]), f64([-2.0, -9.0]), f64([-4.0, -5.0]), f64([-3.0, -8.0])]
    lengths = torch.tensor([2, 6]), torch.tensor([4, 3])
    whole = preference_losses(kind, *sums, beta=0.3, chosen_lengths=lengths[0], rejected_lengths=lengths[1])
    averages = [each / lengths[place % 2] for place, each in enumerate(sums)]
    torch.testing.assert_close(whole, losses(kind, *averages, beta=0.3))
    with pytest.raises(ValueError, match="needs chosen_lengths"):
        preference_losses(kind, *sums, beta=0.3)


@pytest.mark.parametrize("kind", ["dpo", "cdpo", "robust"])
def test_a_policy_that_is_its_reference_has_a_loss_of_ln_2(kind: PreferenceLoss) -> None:
    chosen, rejected = f64([-31.4, -2.0]), f64([-7.0, -900.0])
    found = losses(kind, chosen, rejected, chosen, rejected, beta=0.7)
    torch.testing.assert_close(found, f64([math.log(2)] * 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["cdpo", "robust"])
def test_without_smoothing_it_is_dpo(kind: PreferenceLoss) -> None:
    sums = [f64(values) for values in (CHOSEN, REJECTED, *REFERENCE)]
    torch.testing.assert_close(losses(kind, *sums, smoothing=0.0), losses("dpo", *sums), rtol=0, atol=1e-14)


def test_robust_is_unbiased_under_flipped_labels() -> None:
    """Its mean over pairs of which a share is the wrong way round is the loss on the right ones."""
    sums = [f64(values) for values in (CHOSEN, REJECTED, *REFERENCE)]
    turned = [sums[1], sums[0], sums[3], sums[2]]
    mean = 0.9 * losses("robust", *sums) + 0.1 * losses("robust", *turned)
    torch.testing.assert_close(mean, losses("dpo", *sums))


@pytest.mark.parametrize("kind", KINDS)
def test_preference_losses_pass_finite_differences(kind: PreferenceLoss) -> None:
    generator = torch.Generator().manual_seed(1)
    sums = [(-3 * torch.rand(5, generator=generator, dtype=torch.float64) - 0.05).requires_grad_() for _ in range(4)]
    assert torch.autograd.gradcheck(
        lambda *each: losses(kind, *each, beta=0.4), sums[: 2 if kind in REFERENCE_FREE else 4]
    )


@given(
    kind=st.sampled_from(["dpo", "hinge", "simpo", "orpo"]),
    low=st.floats(-8, -0.01),
    rise=st.floats(0.01, 4),
    rejected=st.floats(-8, -0.01),
)
def test_a_greater_margin_never_costs_more(kind: PreferenceLoss, low: float, rise: float, rejected: float) -> None:
    chosen, other = f64([low, min(low + rise, -1e-6)]), f64([rejected, rejected])
    found = losses(kind, chosen, other, f64([-2.0, -2.0]), f64([-2.0, -2.0]), beta=0.5)
    assert found[1] <= found[0]
    if kind != "hinge":
        assert found[1] < found[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_extreme_log_probabilities_give_finite_losses_and_gradients(kind: PreferenceLoss, dtype: torch.dtype) -> None:
    ends = [
        -1e4,
        -1e-30,
        0.0,
        1e4,
    ]  # above 0 there is no probability, but rounding and bugs upstream know nothing of it
    pairs = torch.cartesian_prod(*[torch.tensor(ends, dtype=dtype)] * 4)
    sums = [column.clone().requires_grad_() for column in pairs.T]
    found = losses(kind, *sums)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(each.grad).all() for each in sums if each.grad is not None)
    assert sums[0].grad is not None and sums[0].grad.any()


def test_an_answer_that_is_all_but_certain_keeps_its_exact_log_odds() -> None:
    average = f64([-1e-12, -1e-3, -math.log(2), -0.7, -50.0])
    # log(1 - e^x) by its series about 0, and by -e^x far from it.
    exact = f64(
        [math.log(1e-12), math.log(1e-3 - 5e-7 + 1e-9 / 6), -math.log(2), math.log(1 - math.exp(-0.7)), -math.exp(-50)]
    )
    torch.testing.assert_close(log1mexp(average), exact, rtol=1e-9, atol=0)


def test_the_gradient_of_log1mexp_is_finite_on_both_sides_of_its_branch() -> None:
    x = f64([-1e-30, -0.5, -1.0, -1e4]).requires_grad_()
    log1mexp(x).sum().backward()
    wanted = [-1e30, -1 / math.expm1(0.5), -1 / math.expm1(1.0), 0.0]
    torch.testing.assert_close(x.grad, f64(wanted), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("dpo", {"beta": 0.0}, "beta is 0.0"),
        ("dpo", {"beta": math.nan}, "beta is nan"),
        ("dpo", {"smoothing": 0.1}, "takes no smoothing"),
        ("dpo", {"gamma": 0.1}, "takes no gamma"),
        ("robust", {"smoothing": 0.5}, "smoothing is 0.5"),
        ("kto", {}, "'kto' is no preference loss"),
    ],
)
def test_settings_that_mean_nothing_are_refused(kind: PreferenceLoss, settings: dict[str, float], said: str) -> None:
    sums = [f64([-1.0])] * 4
    with pytest.raises(ValueError, match=said):
        losses(kind, *sums, **settings)


def test_a_loss_with_a_reference_does_not_run_without_one() -> None:
    with pytest.raises(ValueError, match="dpo compares with a reference"):
        losses("dpo", f64([-1.0]), f64([-2.0]))
