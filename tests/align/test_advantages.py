"""Advantages against their definitions written out as sums, and what becomes of equal rewards."""

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.advantages import GroupAdvantage, gae, group_advantages, whiten, zero_variance

KINDS: tuple[GroupAdvantage, ...] = get_args(GroupAdvantage)


def f64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def summed(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t as the sum over l of (gamma lam)^l times the error at t + l, errors from their definition."""
    following = [*values, 0.0][1:]
    errors = [r + gamma * f - v for r, v, f in zip(rewards, values, following, strict=True)]
    return [sum((gamma * lam) ** later * error for later, error in enumerate(errors[t:])) for t in range(len(errors))]


@pytest.mark.parametrize(
    ("rewards", "values", "gamma", "advantages", "returns"),
    [
        ([0, 0, 0, 1], [0, 0, 0, 1], 0.9, [0.657922, 0.7695, 0.9, 0.0], [0.657922, 0.7695, 0.9, 1.0]),
        (
            [-0.01, 0.02, -0.03, 1.0],
            [0.5, -0.2, 0.1, 0.3],
            1.0,
            [0.347587, 1.11325, 0.835, 0.7],
            [0.847587, 0.91325, 0.935, 1.0],
        ),
    ],
)
def test_gae_has_the_golden_numbers(
    rewards: list[float], values: list[float], gamma: float, advantages: list[float], returns: list[float]
) -> None:
    found = gae(f64(rewards), f64(values), torch.zeros(4, dtype=torch.int64), gamma, 0.95)
    torch.testing.assert_close(found[0], f64(advantages), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[1], f64(returns), rtol=0, atol=1e-6)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    seed=st.integers(0, 10_000),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    lam=st.sampled_from([0.0, 0.95, 1.0]),
    share=st.sampled_from([1.0, 0.6]),
)
def test_gae_is_the_sum_of_its_definition_in_every_answer_and_steps_over_what_the_policy_did_not_write(
    lengths: list[int], seed: int, gamma: float, lam: float, share: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    rewards, values = (torch.randn(count, generator=generator, dtype=torch.float64) for _ in range(2))
    valid = torch.rand(count, generator=generator) < share
    answer = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    found, returns = gae(rewards, values, answer, gamma, lam, valid)
    for each in range(len(lengths)):
        mine = (answer == each) & valid
        wanted = summed(rewards[mine].tolist(), values[mine].tolist(), gamma, lam)
        torch.testing.assert_close(found[mine], f64(wanted), rtol=0, atol=1e-12)
    assert not found[~valid].any()
    assert torch.equal(returns, values + found)


def test_gae_at_its_ends_is_the_value_heads_error_and_the_rewards_to_come() -> None:
    rewards, values, answer = f64([1, 2, 3]), f64([0.5, -1, 2]), torch.zeros(3, dtype=torch.int64)
    torch.testing.assert_close(gae(rewards, values, answer, 1.0, 0.0)[0], f64([-0.5, 5.0, 1.0]))
    torch.testing.assert_close(gae(rewards, values, answer, 1.0, 1.0)[1], f64([6.0, 5.0, 3.0]))


def test_gae_carries_no_gradient_and_takes_an_empty_batch() -> None:
    values = torch.ones(3, requires_grad=True)
    found = gae(torch.ones(3), values, torch.zeros(3, dtype=torch.int64), 1.0, 0.95)
    assert not any(each.requires_grad for each in found)
    nothing = gae(torch.ones(0), torch.ones(0), torch.zeros(0, dtype=torch.int64), 1.0, 0.95)
    assert all(each.numel() == 0 for each in nothing)


def test_gae_refuses_tokens_out_of_order_and_a_discount_above_one() -> None:
    ones = torch.ones(3)
    with pytest.raises(ValueError, match="in order"):
        gae(ones, ones, torch.tensor([0, 1, 0]), 1.0, 0.95)
    with pytest.raises(ValueError, match="gamma 1"):
        gae(ones, ones, torch.tensor([0, 0, 0]), 1.1, 0.95)


def test_whitening_has_the_golden_numbers() -> None:
    rewards, values = f64([-0.01, 0.02, -0.03, 1.0]), f64([0.5, -0.2, 0.1, 0.3])
    advantages, _ = gae(rewards, values, torch.zeros(4, dtype=torch.int64), 1.0, 0.95)
    found = whiten(advantages, torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(found, f64([-1.261687, 1.145124, 0.270463, -0.153901]), rtol=0, atol=1e-6)


@given(seed=st.integers(0, 10_000), count=st.integers(2, 40), centre=st.floats(-50, 50), spread=st.floats(0.1, 100))
def test_whitened_values_are_centred_and_of_unit_spread_over_the_valid_ones(
    seed: int, count: int, centre: float, spread: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = centre + spread * torch.randn(count + 5, generator=generator, dtype=torch.float64)
    valid = torch.arange(count + 5) < count
    values[~valid] = 1e6  # padding must not be seen
    found = whiten(values, valid)
    assert not found[~valid].any()
    assert found[valid].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[valid].std().item() == pytest.approx(1, abs=1e-3)
    unshifted = whiten(values, valid, shift=False)[valid]
    assert unshifted.mean().item() == pytest.approx(values[valid].mean().item(), rel=1e-9, abs=1e-9)
    assert unshifted.std().item() == pytest.approx(1, abs=1e-3)


def test_whitening_one_value_equal_values_or_none_is_finite() -> None:
    yes = torch.ones(3, dtype=torch.bool)
    assert whiten(f64([7.0, 1.0, 1.0]), torch.tensor([True, False, False])).tolist() == [0.0, 0.0, 0.0]
    assert whiten(torch.full((3,), 2.5), yes).tolist() == [0.0, 0.0, 0.0]
    assert whiten(torch.full((3,), 2.5), yes, shift=False).tolist() == [2.5, 2.5, 2.5]
    assert whiten(torch.ones(3), ~yes).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("grpo", [1.4997, -0.4999, -0.4999, -0.4999]),
        ("dr-grpo", [0.75, -0.25, -0.25, -0.25]),
        ("rloo", [1.0, -0.333333, -0.333333, -0.333333]),
    ],
)
def test_group_advantages_have_the_golden_numbers(kind: GroupAdvantage, expected: list[float]) -> None:
    found = group_advantages(f64([1, 0, 0, 0]), torch.zeros(4, dtype=torch.int64), kind)
    # 1.4997 and -0.4999 are printed to four places.
    torch.testing.assert_close(found, f64(expected), rtol=0, atol=1e-6 if kind != "grpo" else 5e-5)
    if kind == "grpo":
        assert found[0].item() == pytest.approx(0.75 / (0.5 + 1e-4), abs=1e-12)


def by_hand(rewards: list[float], kind: GroupAdvantage) -> list[float]:
    """One group, from the definitions, with loops."""
    count, mean = len(rewards), sum(rewards) / len(rewards)
    if max(rewards) == min(rewards):
        return [0.0] * count
    if kind == "rloo":
        return [r - (sum(rewards) - r) / (count - 1) for r in rewards]
    spread = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (count - 1)) + 1e-4
    return [(r - mean) / (spread if kind == "grpo" else 1) for r in rewards]


@given(
    groups=st.lists(
        st.lists(st.sampled_from([0.0, 0.1, 0.3, 1.0, -2.0]), min_size=1, max_size=6), min_size=1, max_size=5
    ),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 1000),
)
def test_each_group_is_compared_with_itself_alone_in_any_order(
    groups: list[list[float]], kind: GroupAdvantage, seed: int
) -> None:
    rewards = f64([r for group in groups for r in group])
    numbers = torch.tensor([n for n, group in enumerate(groups) for _ in group])
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(seed))
    found = torch.empty_like(rewards)
    found[order] = group_advantages(rewards[order], numbers[order], kind)
    wanted = f64([a for group in groups for a in by_hand(group, kind)])
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    sums = torch.zeros(len(groups), dtype=torch.float64).index_add(0, numbers, found)
    assert sums.abs().max().item() < 1e-9
    assert zero_variance(rewards, numbers).tolist() == [len(set(group)) == 1 for group in groups]


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_equal_rewards_and_a_group_of_one_give_exactly_zero_and_are_counted(kind: GroupAdvantage) -> None:
    rewards = torch.tensor([0.1, 0.1, 0.1, 7.0, 1.0, 0.0])  # the mean of three times 0.1 is not 0.1
    groups = torch.tensor([0, 0, 0, 1, 2, 2])
    found = group_advantages(rewards, groups, kind)
    assert found[:4].tolist() == [0.0] * 4 and found[4] > 0 > found[5]
    assert zero_variance(rewards, groups).tolist() == [True, True, False]


def test_whole_number_rewards_are_taken_and_an_unknown_kind_is_not() -> None:
    rewards, groups = torch.tensor([1, 0]), torch.tensor([0, 0])
    assert group_advantages(rewards, groups, "dr-grpo").tolist() == [0.5, -0.5]
    with pytest.raises(ValueError, match="'mean' is no group advantage"):
        group_advantages(rewards, groups, "mean")  # type: ignore[arg-type]
