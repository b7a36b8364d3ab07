"""Losses on pairs of answers: DPO and its variants against a reference, SimPO and ORPO without one.

Everything is a function of each answer's summed log-probability. Whoever calls decides nothing about numerics: every
loss and gradient is finite for any finite input.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

PreferenceLoss = Literal["dpo", "cdpo", "robust", "ipo", "hinge", "simpo", "orpo"]

REFERENCE_FREE: frozenset[PreferenceLoss] = frozenset({"simpo", "orpo"})
"""Losses that need no reference model."""

AVERAGED: frozenset[PreferenceLoss] = frozenset({"ipo", "simpo", "orpo"})
"""Losses on log-probabilities per token, which need the answers' lengths."""

SMOOTHED: frozenset[PreferenceLoss] = frozenset({"cdpo", "robust"})
"""Losses that know that some preferences are recorded the wrong way round."""


def preference_losses(
    kind: PreferenceLoss,
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor | None = None,
    reference_rejected: Tensor | None = None,
    *,
    beta: float,
    smoothing: float = 0.0,
    gamma: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """Loss of each pair.

    With D = (chosen - reference_chosen) - (rejected - reference_rejected), all sums over an answer's tokens:

    - ``dpo``: -log s(beta D).
    - ``cdpo``: -(1 - smoothing) log s(beta D) - smoothing log s(-beta D).
    - ``robust``: (-(1 - smoothing) log s(beta D) + smoothing log s(-beta D)) / (1 - 2 smoothing); may be negative.
    - ``hinge``: max(0, 1 - beta D).

    With averages over an answer's tokens in place of the sums:

    - ``ipo``: (D - 1 / (2 beta))^2. The paper's sums make it grow with the length; averages are what its authors used.
    - ``simpo``: -log s(beta (chosen - rejected) - gamma).
    - ``orpo``: -chosen + beta * -log s(log-odds of chosen - log-odds of rejected), log-odds of l = l - log(1 - e^l).

    Args:
        kind: which loss.
        chosen: summed log-probabilities of the preferred answers under the policy, nats, shape (P,).
        rejected: those of the other answers, shape (P,).
        reference_chosen: as ``chosen`` under the reference, shape (P,); not needed by ``simpo`` and ``orpo``.
        reference_rejected: as ``rejected`` under the reference, shape (P,).
        beta: strength of the pull to the reference (``orpo``: weight of the odds ratio); above 0.
        smoothing: share of preferences taken to be the wrong way round, in [0, 0.5), for ``cdpo`` and ``robust``.
        gamma: margin of ``simpo``, in units of its reward.
        chosen_lengths: tokens of each preferred answer, shape (P,); needed by ``ipo``, ``simpo`` and ``orpo``.
        rejected_lengths: tokens of each other answer, shape (P,).

    Returns:
        Shape (P,).

    Raises:
        ValueError: an unknown kind, a number out of its range, or a tensor that the kind needs and was not given.

    Source: Rafailov et al. 2023 (dpo, eq. 7); Mitchell 2023 (cdpo); Chowdhury et al. 2024 (robust); Azar et al.
    2023 (ipo, eq. 17); Zhao et al. 2023 (hinge); Meng et al. 2024 (simpo, eq. 6); Hong et al. 2024 (orpo, eq. 6).
    """
    _check(kind, beta, smoothing, gamma)
    if kind in AVERAGED:
        if chosen_lengths is None or rejected_lengths is None:
            raise ValueError(f"{kind} is a loss on averages and needs chosen_lengths and rejected_lengths")
        chosen, rejected = chosen / chosen_lengths, rejected / rejected_lengths
        if reference_chosen is not None and reference_rejected is not None:
            reference_chosen = reference_chosen / chosen_lengths
            reference_rejected = reference_rejected / rejected_lengths
    if kind == "simpo":
        return -F.logsigmoid(beta * (chosen - rejected) - gamma)
    if kind == "orpo":
        return -chosen + beta * odds_ratio_losses(chosen, rejected)
    if reference_chosen is None or reference_rejected is None:
        raise ValueError(f"{kind} compares with a reference and needs reference_chosen and reference_rejected")
    # Policy against reference first: of two sums in the thousands it is their small difference that matters.
    delta = (chosen - reference_chosen) - (rejected - reference_rejected)
    if kind == "ipo":
        return (delta - 1 / (2 * beta)).square()
    if kind == "hinge":
        return F.relu(1 - beta * delta)
    right, wrong = F.logsigmoid(beta * delta), F.logsigmoid(-beta * delta)
    if kind == "cdpo":
        return -(1 - smoothing) * right - smoothing * wrong
    if kind == "robust":
        return (-(1 - smoothing) * right + smoothing * wrong) / (1 - 2 * smoothing)
    return -right


def odds_ratio_losses(chosen: Tensor, rejected: Tensor) -> Tensor:
    """ORPO's second term: -log s(log-odds of chosen - log-odds of rejected).

    Args:
        chosen: average log-probability per token of the preferred answers, nats, shape (P,); above 0 is taken as 0.
        rejected: that of the other answers, shape (P,).

    Returns:
        Nats, shape (P,).
    """
    return -F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, exact at both ends, with finite gradients (Maechler 2012)."""
    near = x > -math.log(2)
    # Each branch sees only arguments it is good for: a NaN in the branch not taken would spoil the gradient.
    small, large = torch.where(near, x, -1.0), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


def _log_odds(average: Tensor) -> Tensor:
    # A probability that rounds to 1 has infinite odds: it is taken as the greatest below 1.
    below = average.clamp(max=-torch.finfo(average.dtype).eps)
    return below - log1mexp(below)


def _check(kind: PreferenceLoss, beta: float, smoothing: float, gamma: float) -> None:
    if kind not in get_args(PreferenceLoss):
        raise ValueError(f"{kind!r} is no preference loss; there are {', '.join(get_args(PreferenceLoss))}")
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta is {beta}; it must be above 0")
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing is {smoothing}; it is a share from 0 to below 0.5")
    if smoothing and kind not in SMOOTHED:
        raise ValueError(f"{kind} takes no smoothing; use cdpo or robust")
    if gamma and kind != "simpo":
        raise ValueError(f"{kind} takes no gamma; use simpo")
