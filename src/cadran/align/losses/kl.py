"""How far the policy has gone from its reference, estimated on its own samples, and what that costs.

Of tokens x ~ policy with d = log policy - log reference, the mean of k1 = d is the KL divergence; k2 = d^2 / 2 and
k3 = e^-d - 1 + d vary less (Schulman 2020). As terms of a loss they differ: k1's gradient is zero on average, k2's is
the right one, and k3's belongs to the other direction of the KL. Hence the ``+`` forms: the value of one, the gradient
of k2.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from cadran.align.losses.policy import BOUND

KlEstimator = Literal["k1", "k2", "k3", "k1+", "k3+"]

STEP = 0.2
"""Greatest relative error of the KL that the adaptive coefficient answers to at once."""


def k1(logprobs: Tensor, reference: Tensor) -> Tensor:
    """d: unbiased, of either sign. Nats, shape (N,)."""
    return logprobs - reference


def k2(logprobs: Tensor, reference: Tensor) -> Tensor:
    """d^2 / 2: biased, never negative, its gradient on the policy's samples that of the KL. Nats, shape (N,)."""
    return k1(logprobs, reference).square() / 2


def k3(logprobs: Tensor, reference: Tensor) -> Tensor:
    """e^-d - 1 + d: unbiased, never negative. Nats, shape (N,); d is at least -20, so that nothing overflows."""
    # Not bounded above: there the exponential is harmless, and the pull back is wanted most.
    difference = k1(logprobs, reference).clamp(min=-BOUND)
    return torch.expm1(-difference) + difference


def kl_estimates(estimator: KlEstimator, logprobs: Tensor, reference: Tensor) -> Tensor:
    """One of the estimators by name.

    Args:
        estimator: ``k1+`` and ``k3+`` have the value of k1 and k3 and the gradient of k2.
        logprobs: of the sampled tokens under the policy, nats, shape (N,).
        reference: under the reference, shape (N,).

    Returns:
        Nats, shape (N,).

    Raises:
        ValueError: no such estimator.
    """
    known = {"k1": k1, "k2": k2, "k3": k3, "k1+": k1, "k3+": k3}
    if estimator not in known:
        raise ValueError(f"{estimator!r} is no estimator of the KL; there are {', '.join(known)}")
    values = known[estimator](logprobs, reference)
    if not estimator.endswith("+"):
        return values
    carrier = k2(logprobs, reference)
    return values.detach() + (carrier - carrier.detach())


def adaptive_coefficient(coefficient: float, kl: float, target: float, answers: int, horizon: float) -> float:
    """The KL's coefficient after a rollout: greater where the policy went too far, smaller where not far enough.

    Args:
        coefficient: as it was.
        kl: mean over the rollout's answers of their summed KL, nats.
        target: the KL wanted, nats; above 0.
        answers: in the rollout.
        horizon: answers over which the coefficient can double or so; above 0.

    Returns:
        coefficient * (1 + clip(kl / target - 1, -0.2, 0.2) * answers / horizon), never below 0.

    Raises:
        ValueError: the KL is not a number, or target or horizon is not above 0.

    Source: Ziegler et al. 2019.
    """
    if not (target > 0 and horizon > 0):
        raise ValueError(f"target {target} and horizon {horizon} must both be above 0")
    if math.isnan(kl):
        raise ValueError("the KL is not a number")
    error = min(max(kl / target - 1, -STEP), STEP)
    return max(coefficient * (1 + error * answers / horizon), 0.0)
