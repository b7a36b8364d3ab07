"""Estimators of the KL: the golden numbers, their means and their gradients, and the adaptive coefficient."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.losses.kl import adaptive_coefficient, k1, k2, k3, kl_estimates


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def distributions() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of a policy over seven tokens, its reference's log-probabilities, and the true KL."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(7, generator=generator, dtype=torch.float64).requires_grad_()
    reference = torch.randn(7, generator=generator, dtype=torch.float64).log_softmax(0)
    policy = logits.log_softmax(0)
    return logits, reference, (policy.exp() * (policy - reference)).sum()


def test_the_estimators_have_the_golden_numbers() -> None:
    new, reference = f64([-1.0, -1.0]), f64([-1.5, -0.5])
    for estimator, expected in ((k1, [0.5, -0.5]), (k2, [0.125, 0.125]), (k3, [0.106531, 0.148721])):
        torch.testing.assert_close(estimator(new, reference), f64(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k3", "k1+", "k3+"])
def test_unbiased_estimators_have_the_kl_as_their_mean(estimator: str) -> None:
    logits, reference, true = distributions()
    policy = logits.log_softmax(0)
    mean = (policy.exp().detach() * kl_estimates(estimator, policy, reference)).sum()
    assert mean.item() == pytest.approx(true.item(), abs=1e-12)


def test_of_the_estimators_only_those_with_k2_have_the_gradient_of_the_kl() -> None:
    logits, reference, true = distributions()
    (wanted,) = torch.autograd.grad(true, logits, retain_graph=True)
    probabilities = logits.softmax(0).detach()
    found = {}
    for estimator in ("k1", "k2", "k3", "k1+", "k3+"):
        mean = (probabilities * kl_estimates(estimator, logits.log_softmax(0), reference)).sum()
        (found[estimator],) = torch.autograd.grad(mean, logits)
    for estimator in ("k2", "k1+", "k3+"):
        torch.testing.assert_close(found[estimator], wanted)
    torch.testing.assert_close(found["k1"], torch.zeros_like(wanted), rtol=0, atol=1e-12)
    torch.testing.assert_close(found["k3"], probabilities - reference.exp())  # the forward KL's


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_estimators_pass_finite_differences(estimator: str) -> None:
    new, reference = f64([-1.0, -0.2, -3.0]).requires_grad_(), f64([-2.0, -0.9, -1.0])
    assert torch.autograd.gradcheck(lambda each: kl_estimates(estimator, each, reference), (new,))


@given(new=st.floats(-1e4, 0), reference=st.floats(-1e4, 0))
def test_k2_and_k3_are_never_negative_and_nothing_overflows(new: float, reference: float) -> None:
    policy = torch.tensor([new], requires_grad=True)
    for estimator in ("k1", "k2", "k3"):
        found = kl_estimates(estimator, policy, torch.tensor([reference]))
        assert torch.isfinite(found).all()
        assert torch.isfinite(torch.autograd.grad(found.sum(), policy)[0]).all()
        assert estimator == "k1" or found.item() >= 0


def test_k3_still_pulls_a_policy_back_that_went_very_far() -> None:
    policy = f64([-0.1]).requires_grad_()
    k3(policy, f64([-100.0])).sum().backward()
    assert policy.grad is not None and policy.grad.item() == pytest.approx(1.0)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'k2\+' is no estimator"):
        kl_estimates("k2+", f64([0.0]), f64([0.0]))


def test_the_adaptive_coefficient_has_the_golden_number() -> None:
    assert adaptive_coefficient(0.2, 12.0, 6.0, 64, 10000) == pytest.approx(0.200256, abs=1e-9)


@given(kl=st.floats(-10, 1e6), coefficient=st.floats(1e-6, 10))
def test_the_coefficient_moves_towards_the_target_by_a_fifth_at_most(kl: float, coefficient: float) -> None:
    after = adaptive_coefficient(coefficient, kl, 6.0, 64, 64)
    assert 0.8 * coefficient <= after * (1 + 1e-12) and after <= 1.2 * coefficient * (1 + 1e-12)
    assert (after > coefficient) == (kl > 6.0 * (1 + 1e-15)) or math.isclose(kl, 6.0, rel_tol=1e-9)


def test_a_coefficient_is_never_negative_and_never_made_from_nan() -> None:
    assert adaptive_coefficient(0.2, 0.0, 6.0, 1000, 10) == 0.0
    assert adaptive_coefficient(0.2, math.inf, 6.0, 64, 10000) == pytest.approx(0.200256)
    with pytest.raises(ValueError, match="not a number"):
        adaptive_coefficient(0.2, math.nan, 6.0, 64, 10000)
    with pytest.raises(ValueError, match="above 0"):
        adaptive_coefficient(0.2, 1.0, 0.0, 64, 10000)
