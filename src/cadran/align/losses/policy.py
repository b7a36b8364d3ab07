"""Policy-gradient losses per token: PPO's clip with its later forms (DAPO, dual clip), GSPO's ratio, CISPO.

A ratio is e to the difference of two log-probabilities, which is clamped to +-20 before: beyond it every clip has long
decided, and the exponential would overflow.
"""

import torch
from torch import Tensor

from cadran.align.losses.aggregate import answer_means

BOUND = 20.0
"""Greatest magnitude of a log-ratio whose exponential is taken, nats."""


def clipped_policy_losses(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's loss of each token: max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)), r the ratio of probabilities.

    Args:
        logprobs: of the sampled tokens under the policy, nats, shape (N,); carries the gradient.
        old_logprobs: under the policy that sampled them, shape (N,).
        advantages: shape (N,).
        clip_low: how far below 1 a ratio counts, in [0, 1].
        clip_high: how far above 1; greater than ``clip_low`` it leaves rare tokens room to grow (DAPO: 0.28 with 0.2).
        dual_clip: greatest loss of a token with a negative advantage, in units of -A; above 1 (3 as
            published); None for none.

    Returns:
        Losses, shape (N,), and whether a clip decides a token, which then gives no gradient: bool, shape (N,).

    Raises:
        ValueError: a clip is out of its range.

    Source: Schulman et al. 2017, eq. 7; Ye et al. 2020 (dual clip); Yu et al. 2025 (asymmetric).
    """
    ratios = log_ratios(logprobs, old_logprobs)
    return clipped_ratio_losses(ratios, advantages, clip_low=clip_low, clip_high=clip_high, dual_clip=dual_clip)


def clipped_ratio_losses(
    log_ratios: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None = None
) -> tuple[Tensor, Tensor]:
    """``clipped_policy_losses`` from the logarithms of the ratios, which ``sequence_log_ratios`` gives for GSPO.

    Args:
        log_ratios: shape (N,), within +-``BOUND``.
        advantages, clip_low, clip_high, dual_clip: as there.
    """
    _check(clip_low, clip_high, dual_clip)
    advantages = advantages.detach()
    ratios = log_ratios.exp()
    plain, bounded = -advantages * ratios, -advantages * ratios.clamp(1 - clip_low, 1 + clip_high)
    losses, clipped = torch.maximum(plain, bounded), bounded > plain
    if dual_clip is not None:
        most = torch.where(advantages < 0, -advantages * dual_clip, torch.inf)
        losses, clipped = torch.minimum(losses, most), clipped | (losses > most)
    return losses, clipped


def cispo_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """-A clip(r, 1 - clip_low, 1 + clip_high) log p, the ratio as a constant: every token keeps a gradient.

    Args:
        logprobs, old_logprobs, advantages: as in ``clipped_policy_losses``.
        clip_low: how far below 1 the weight may be; 1 means no bound below, as in the paper.
        clip_high: how far above 1.

    Returns:
        Losses, shape (N,), and whether a token's weight was clipped, bool, shape (N,).

    Raises:
        ValueError: a clip is out of its range.

    Source: MiniMax-M1, 2025.
    """
    _check(clip_low, clip_high, None)
    ratios = log_ratios(logprobs, old_logprobs).detach().exp()
    weights = ratios.clamp(1 - clip_low, 1 + clip_high)
    return -advantages.detach() * weights * logprobs, weights != ratios


def log_ratios(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """log p - log p_old of each token, clamped to +-``BOUND``; shape (N,)."""
    return (logprobs - old_logprobs.detach()).clamp(-BOUND, BOUND)


def sequence_log_ratios(logprobs: Tensor, old_logprobs: Tensor, answer: Tensor, valid: Tensor) -> Tensor:
    """GSPO: every token of an answer has the answer's mean log-ratio, so that an answer is clipped as a whole.

    Args:
        logprobs: nats, shape (N,); carries the gradient, through the mean.
        old_logprobs: shape (N,).
        answer: which answer a token belongs to, int64, shape (N,); whole answers only.
        valid: which tokens count in the mean, bool, shape (N,).

    Returns:
        Shape (N,), within +-``BOUND``.

    Source: Zheng et al. 2025.
    """
    means = answer_means(logprobs - old_logprobs.detach(), answer, valid)
    return means[answer].clamp(-BOUND, BOUND)


def importance_weights(logprobs: Tensor, sampler_logprobs: Tensor, most: float = 2.0) -> Tensor:
    """What a token's loss is multiplied by where the sampler's probabilities are not quite the trainer's.

    Args:
        logprobs: under the trainer with the weights that sampled, nats, shape (N,).
        sampler_logprobs: what the engine that sampled gave the tokens, shape (N,).
        most: bound above; without it a few tokens would carry the whole gradient.

    Returns:
        min(p_trainer / p_sampler, most), without gradient, shape (N,).

    Source: Yao et al. 2025 (truncated importance sampling); Ionides 2008.
    """
    return log_ratios(logprobs.detach(), sampler_logprobs).exp().clamp(max=most)


def _check(clip_low: float, clip_high: float, dual_clip: float | None) -> None:
    if not 0 <= clip_low <= 1:
        raise ValueError(f"clip_low is {clip_low}; a ratio is never below 0, so it is from 0 to 1")
    if not clip_high >= 0:
        raise ValueError(f"clip_high is {clip_high}; it must not be negative")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; at 1 or below it would silence tokens whose ratio is 1")
