"""Clipped policy losses against the formulae written out token by token, and at the ends of the scale."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.losses.policy import (
    BOUND,
    cispo_losses,
    clipped_policy_losses,
    clipped_ratio_losses,
    importance_weights,
    log_ratios,
    sequence_log_ratios,
)

# Log-ratio, advantage, loss with a clip of 0.2, and with a dual clip of 3.
GOLDEN = [
    (0.3, 1.0, -1.2, -1.2),
    (0.3, -1.0, 1.349859, 1.349859),
    (-0.3, 1.0, -0.740818, -0.740818),
    (-0.3, -1.0, 0.8, 0.8),
    (2.0, -1.0, 7.389056, 3.0),
]


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def by_hand(ratio: float, advantage: float, low: float, high: float, dual: float | None) -> tuple[float, bool]:
    """The published formula for one token, and whether its derivative by the ratio is zero because of a clip."""
    kept = min(max(ratio, 1 - low), 1 + high)
    loss = max(-advantage * ratio, -advantage * kept)
    clipped = loss != -advantage * ratio
    if dual is not None and advantage < 0 and loss > -advantage * dual:
        return -advantage * dual, True
    return loss, clipped


def test_ppo_has_the_golden_numbers() -> None:
    ratios, advantages, plain, dual = (f64(list(column)) for column in zip(*GOLDEN, strict=True))
    old = torch.full_like(ratios, -2.0)
    for wanted, clip in ((plain, None), (dual, 3.0)):
        found, _ = clipped_policy_losses(old + ratios, old, advantages, clip_low=0.2, clip_high=0.2, dual_clip=clip)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


@given(
    ratio=st.floats(-5, 5),
    advantage=st.floats(-3, 3),
    low=st.floats(0, 1),
    high=st.floats(0, 2),
    dual=st.one_of(st.none(), st.floats(1.01, 6)),
)
def test_a_token_has_the_loss_of_the_formula(
    ratio: float, advantage: float, low: float, high: float, dual: float | None
) -> None:
    losses, clipped = clipped_policy_losses(
        f64([ratio]), f64([0.0]), f64([advantage]), clip_low=low, clip_high=high, dual_clip=dual
    )
    wanted, decided = by_hand(math.exp(ratio), advantage, low, high, dual)
    assert losses.item() == pytest.approx(wanted, rel=1e-12, abs=1e-12)
    if abs(wanted + advantage * math.exp(ratio)) > 1e-9 or wanted == -advantage * math.exp(ratio):
        assert bool(clipped) == decided


def test_a_token_counted_as_clipped_is_one_without_a_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    new, advantages = (torch.randn(200, generator=generator, dtype=torch.float64) for _ in range(2))
    for dual in (None, 1.5):
        logprobs = new.clone().requires_grad_()
        losses, clipped = clipped_policy_losses(
            logprobs, torch.zeros_like(new), advantages, clip_low=0.2, clip_high=0.28, dual_clip=dual
        )
        losses.sum().backward()
        assert logprobs.grad is not None
        assert torch.equal(logprobs.grad == 0, clipped)
        assert 0 < clipped.sum() < 200


def test_the_first_update_is_the_plain_policy_gradient() -> None:
    advantages = f64([0.5, -2.0, 0.0])
    logprobs = f64([-1.0, -3.0, -0.1]).requires_grad_()
    losses, clipped = clipped_policy_losses(logprobs, logprobs, advantages, clip_low=0.2, clip_high=0.2)
    losses.sum().backward()
    assert torch.equal(losses.detach(), -advantages) and not clipped.any()
    torch.testing.assert_close(logprobs.grad, -advantages)


def test_the_upper_clip_of_dapo_leaves_more_room_than_the_lower() -> None:
    ratios, advantages = f64([math.log(1.27), math.log(1.29), math.log(0.79), math.log(0.81)]), f64([1, 1, -1, -1])
    _, clipped = clipped_ratio_losses(ratios, advantages, clip_low=0.2, clip_high=0.28)
    assert clipped.tolist() == [False, True, True, False]


@pytest.mark.parametrize("dual", [None, 3.0])
def test_policy_losses_pass_finite_differences(dual: float | None) -> None:
    old, advantages = torch.zeros(6, dtype=torch.float64), f64([1, 1, 1, -1, -1, -1])
    logprobs = f64([-0.5, 0.05, 0.5, -0.5, 0.05, 1.5]).requires_grad_()  # each side of each clip, away from the kinks

    def losses(each: torch.Tensor) -> torch.Tensor:
        return clipped_policy_losses(each, old, advantages, clip_low=0.2, clip_high=0.28, dual_clip=dual)[0]

    assert torch.autograd.gradcheck(losses, (logprobs,))


def test_a_sequence_ratio_is_the_geometric_mean_of_its_valid_tokens() -> None:
    new, old = f64([-1.0, -2.0, -0.5, -4.0, -1.0]), f64([-1.5, -1.0, -9.0, -4.4, -0.8])
    answer, valid = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([True, True, False, True, True])
    found = sequence_log_ratios(new, old, answer, valid)
    torch.testing.assert_close(found, f64([-0.25, -0.25, -0.25, 0.1, 0.1]))


def test_sequence_ratios_pass_finite_differences_and_reach_every_valid_token() -> None:
    generator = torch.Generator().manual_seed(2)
    new = (0.1 * torch.randn(7, generator=generator, dtype=torch.float64)).requires_grad_()
    old, advantages = torch.zeros(7, dtype=torch.float64), f64([1, 1, 1, -2, -2, -2, -2])
    answer = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    valid = torch.tensor([True, True, True, True, False, True, True])

    def losses(each: torch.Tensor) -> torch.Tensor:
        ratios = sequence_log_ratios(each, old, answer, valid)
        return clipped_ratio_losses(ratios, advantages, clip_low=0.9, clip_high=0.9)[0]

    assert torch.autograd.gradcheck(losses, (new,))
    losses(new).sum().backward()
    assert new.grad is not None and torch.equal(new.grad != 0, valid)


def test_cispo_weights_the_log_probability_and_keeps_every_gradient() -> None:
    ratios, advantages = [-1.0, 0.1, 1.0], [1.0, -2.0, 0.5]
    old = f64([-2.0, -1.0, -3.0])
    logprobs = (old + f64(ratios)).requires_grad_()
    losses, clipped = cispo_losses(logprobs, old, f64(advantages), clip_low=0.2, clip_high=0.28)
    losses.sum().backward()
    weights = [0.8, math.exp(0.1), 1.28]
    wanted = [-a * w for a, w in zip(advantages, weights, strict=True)]
    torch.testing.assert_close(logprobs.grad, f64(wanted))
    torch.testing.assert_close(losses.detach(), f64(wanted) * logprobs.detach())
    assert clipped.tolist() == [True, False, True]
    unbounded, _ = cispo_losses(logprobs.detach(), old, f64(advantages), clip_low=1.0, clip_high=0.28)
    assert unbounded[0].item() == pytest.approx(math.exp(-1.0) * 3.0)


def test_importance_weights_are_truncated_ratios_without_a_gradient() -> None:
    trainer, sampler = f64([-1.0, -1.0, -1.0]).requires_grad_(), f64([-1.0, -3.0, -0.5])
    found = importance_weights(trainer, sampler, most=2.0)
    assert not found.requires_grad
    torch.testing.assert_close(found, f64([1.0, 2.0, math.exp(-0.5)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_probabilities_never_overflow(dtype: torch.dtype) -> None:
    grid = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)] * 2)
    old = grid[:, 1]
    for advantage in (-3.0, 0.0, 3.0):
        new = grid[:, 0].clone().requires_grad_()
        advantages = torch.full_like(old, advantage)
        each = torch.zeros_like(old, dtype=torch.int64)
        shared = sequence_log_ratios(new, old, each, torch.ones_like(each, dtype=torch.bool))
        parts = [
            clipped_policy_losses(new, old, advantages, clip_low=0.2, clip_high=0.2)[0],
            clipped_policy_losses(new, old, advantages, clip_low=0.2, clip_high=0.2, dual_clip=3.0)[0],
            clipped_ratio_losses(shared, advantages, clip_low=0.2, clip_high=0.2)[0],
            cispo_losses(new, old, advantages, clip_low=1.0, clip_high=4.0)[0],
        ]
        assert all(torch.isfinite(part).all() for part in parts)
        torch.cat(parts).sum().backward()
        assert new.grad is not None and torch.isfinite(new.grad).all()
    assert log_ratios(grid[:, 0], old).abs().max() == BOUND
    assert torch.isfinite(importance_weights(grid[:, 0], old)).all()


@pytest.mark.parametrize(
    ("clips", "said"),
    [
        ({"clip_low": 1.5, "clip_high": 0.2}, "clip_low is 1.5"),
        ({"clip_low": 0.2, "clip_high": -0.2}, "clip_high is -0.2"),
        ({"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 1.0}, "dual_clip is 1.0"),
    ],
)
def test_clips_that_mean_nothing_are_refused(clips: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        clipped_policy_losses(f64([0.0]), f64([0.0]), f64([1.0]), **clips)
