"""One number from many tokens: the golden ones, and the same whatever the micro-batches."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cadran.align.losses.aggregate import Aggregation, aggregate, answer_means

WAYS: tuple[Aggregation, ...] = get_args(Aggregation)


def by_hand(values: list[list[float]], valid: list[list[bool]], how: Aggregation, longest: int) -> float:
    """The three definitions, with loops."""
    kept = [[v for v, ok in zip(*rows, strict=True) if ok] for rows in zip(values, valid, strict=True)]
    if how == "sequence-mean":
        return sum(sum(each) / max(len(each), 1) for each in kept) / len(kept)
    total = sum(sum(each) for each in kept)
    return total / (max(sum(map(len, kept)), 1) if how == "token-mean" else len(kept) * longest)


@pytest.mark.parametrize(("how", "expected"), [("sequence-mean", 2.0), ("token-mean", 2.5), ("dr-grpo", 1.25)])
def test_aggregation_has_the_golden_numbers(how: Aggregation, expected: float) -> None:
    values = torch.tensor([1.0] * 2 + [3.0] * 6, dtype=torch.float64)
    answer, valid = torch.tensor([0] * 2 + [1] * 6), torch.ones(8, dtype=torch.bool)
    assert aggregate(values, answer, valid, how, tokens=8, answers=2, longest=8).item() == pytest.approx(expected)


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    how=st.sampled_from(WAYS),
    micro=st.integers(1, 4),
)
def test_micro_batches_of_whole_answers_add_up_to_the_definition(
    lengths: list[int], seed: int, how: Aggregation, micro: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    values = torch.randn(count, generator=generator, dtype=torch.float64)
    valid = torch.rand(count, generator=generator) < 0.7
    answer = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    tokens, answers, longest = int(valid.sum()), len(lengths), 9
    wanted = by_hand(
        [v.tolist() for v in values.split(lengths)], [v.tolist() for v in valid.split(lengths)], how, longest
    )
    total = 0.0
    for start in range(0, len(lengths), micro):
        here = (answer >= start) & (answer < start + micro)
        part = aggregate(
            values[here], answer[here] - start, valid[here], how, tokens=tokens, answers=answers, longest=longest
        )
        total += part.item()
    assert total == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("how", WAYS)
def test_what_is_not_valid_has_neither_value_nor_gradient(how: Aggregation) -> None:
    values = torch.tensor([1.0, torch.nan, 2.0, torch.inf], requires_grad=True)
    valid = torch.tensor([True, False, True, False])
    total = aggregate(values, torch.tensor([0, 0, 1, 1]), valid, how, tokens=2, answers=2, longest=4)
    total.backward()
    assert total.item() == pytest.approx(3 / 8 if how == "dr-grpo" else 1.5)
    assert values.grad is not None and torch.equal(values.grad != 0, valid)


@pytest.mark.parametrize("how", WAYS)
def test_nothing_valid_is_zero_and_no_nan(how: Aggregation) -> None:
    for count in (0, 3):
        values = torch.ones(count, requires_grad=True)
        nothing = torch.zeros(count, dtype=torch.bool)
        total = aggregate(values, torch.zeros(count, dtype=torch.int64), nothing, how, tokens=0, answers=0, longest=4)
        total.backward()
        assert total.item() == 0.0 and values.grad is not None and not values.grad.any()


@pytest.mark.parametrize("how", WAYS)
def test_aggregation_passes_finite_differences(how: Aggregation) -> None:
    values = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_()
    answer, valid = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([True, True, False, True, True, True])
    assert torch.autograd.gradcheck(
        lambda each: aggregate(each, answer, valid, how, tokens=5, answers=3, longest=4), (values,)
    )


def test_an_answer_without_a_valid_token_has_a_mean_of_zero() -> None:
    means = answer_means(torch.tensor([5.0, 1.0, 3.0]), torch.tensor([0, 2, 2]), torch.tensor([False, True, True]))
    assert means.tolist() == [0.0, 0.0, 2.0]


def test_a_way_that_is_not_known_or_not_complete_is_refused() -> None:
    one, first, yes = torch.ones(1), torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
    with pytest.raises(ValueError, match="'mean' is no way"):
        aggregate(one, first, yes, "mean", tokens=1, answers=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give longest"):
        aggregate(one, first, yes, "dr-grpo", tokens=1, answers=1)
