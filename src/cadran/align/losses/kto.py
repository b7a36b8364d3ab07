"""KTO: answers that are good or bad on their own, without a partner (Ethayarajh et al. 2024)."""

import torch
from torch import Tensor


def kto_losses(
    log_ratio: Tensor,
    desirable: Tensor,
    baseline: Tensor | float,
    *,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Loss of each answer: w (1 - s(beta (D - z))) for a desirable one, w (1 - s(beta (z - D))) for another.

    Args:
        log_ratio: D, summed log-probability under the policy less that under the reference, nats, shape (B,).
        desirable: whether the answer is a good one, bool, shape (B,).
        baseline: z, from ``kto_baseline``; carries no gradient.
        beta: strength of the pull to the reference.
        desirable_weight: factor on the good answers' losses.
        undesirable_weight: factor on the others'.

    Returns:
        Shape (B,), each between 0 and its weight.

    Source: Ethayarajh et al. 2024, section 4.
    """
    if isinstance(baseline, Tensor):
        baseline = baseline.detach()
    surplus = beta * (log_ratio - baseline)
    # 1 - s(x) is s(-x), which does not round to nothing where s(x) rounds to 1.
    signed = torch.where(desirable, -surplus, surplus)
    weights = torch.where(desirable, log_ratio.new_tensor(desirable_weight), log_ratio.new_tensor(undesirable_weight))
    return weights * torch.sigmoid(signed)


def kto_baseline(mismatched: Tensor) -> Tensor:
    """The point from which KTO measures: the KL to the reference, estimated on answers that belong to other prompts.

    Rotate the answers of a batch by one and score them after the wrong prompts; that needs more than one row, and
    neighbours that do not share a prompt.

    Args:
        mismatched: log-ratios of the mismatched pairs, nats, shape (B,), B at least 1.

    Returns:
        Scalar, at least 0, without gradient.

    Raises:
        ValueError: there is none.
    """
    if mismatched.numel() == 0:
        raise ValueError("the baseline needs at least one mismatched pair")
    return mismatched.detach().mean().clamp(min=0)
