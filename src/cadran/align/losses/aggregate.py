"""From a loss per token to one number, the same whatever the micro-batches it is computed in.

A micro-batch gives its part of the sum, divided by a count over the whole optimizer step; the parts add up. A mean of
the micro-batches' means would be another number wherever the answers differ in length.
"""

from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["token-mean", "sequence-mean", "dr-grpo"]


def aggregate(
    values: Tensor,
    answer: Tensor,
    valid: Tensor,
    how: Aggregation,
    *,
    tokens: int,
    answers: int,
    longest: int = 0,
) -> Tensor:
    """This micro-batch's part of the step's loss.

    Args:
        values: loss of each token, shape (N,).
        answer: which answer a token belongs to, int64, shape (N,); ``sequence-mean`` needs whole answers.
        valid: which tokens count, bool, shape (N,).
        how: ``token-mean``: each token weighs the same (DAPO). ``sequence-mean``: the mean of the answers' means, which
            favours long wrong answers (GRPO as published). ``dr-grpo``: over answers * longest, a constant.
        tokens: valid tokens of the whole step; used by ``token-mean``.
        answers: answers of the whole step, those without a valid token included; used by the other two.
        longest: most tokens an answer may have; used by ``dr-grpo``.

    Returns:
        Scalar; a count of 0 is taken as 1 and gives 0.

    Raises:
        ValueError: an unknown way, or ``dr-grpo`` without ``longest``.

    Source: Shao et al. 2024; Liu et al. 2025 (Dr. GRPO); Yu et al. 2025 (DAPO).
    """
    if how == "sequence-mean":
        return answer_means(values, answer, valid).sum() / max(answers, 1)
    total = torch.where(valid, values, 0.0).sum()
    if how == "token-mean":
        return total / max(tokens, 1)
    if how == "dr-grpo":
        if longest < 1:
            raise ValueError("dr-grpo divides by the longest answer that is allowed; give longest")
        return total / (max(answers, 1) * longest)
    raise ValueError(f"{how!r} is no way to aggregate; there are token-mean, sequence-mean and dr-grpo")


def answer_means(values: Tensor, answer: Tensor, valid: Tensor) -> Tensor:
    """Mean over each answer's valid tokens.

    Args:
        values: shape (N,).
        answer: which answer a token belongs to, int64, shape (N,).
        valid: bool, shape (N,).

    Returns:
        Shape (answers,) up to the highest number in ``answer``; 0 for an answer without a valid token.
    """
    count = int(answer.max()) + 1 if answer.numel() else 0
    sums = values.new_zeros(count).index_add(0, answer, torch.where(valid, values, 0.0))
    return sums / torch.bincount(answer[valid], minlength=count).clamp(min=1)
