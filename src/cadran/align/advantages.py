"""How much better than expected: from rewards to what a policy gradient is multiplied by.

GAE measures against a value head, the group forms against the other answers to the same prompt. Nothing here carries
a gradient.
"""

from typing import Literal

import torch
from torch import Tensor

GroupAdvantage = Literal["grpo", "dr-grpo", "rloo"]

GROUP_EPSILON = 1e-4
"""Added to a group's standard deviation (as in TRL): bounds what nearly equal rewards are blown up to."""

WHITEN_EPSILON = 1e-8
"""Added to the variance in ``whiten``."""


@torch.no_grad()
def gae(
    rewards: Tensor, values: Tensor, answer: Tensor, gamma: float, lam: float, valid: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over each answer's tokens.

    d_t = r_t + gamma V_{t+1} - V_t and A_t = d_t + gamma lam A_{t+1}, with V = A = 0 after an answer's last token.

    Args:
        rewards: of each token, shape (N,): usually -beta KL, with the score added at the last.
        values: what the value head said of the state each token was drawn from, shape (N,).
        answer: which answer a token belongs to, never falling, int64, shape (N,).
        gamma: discount per token, in [0, 1].
        lam: 0 trusts the value head alone, 1 the rewards alone.
        valid: tokens that the policy wrote, bool, shape (N,); None for all. Others (the result of a tool) are stepped
            over as if they were not there: rewards upon them do not count, their advantage is 0 and their return is
            their value.

    Returns:
        Advantages and returns (A + V), both of shape (N,). Whiten the advantages afterwards, never the returns.

    Raises:
        ValueError: the answers are not in order, or gamma or lam is outside of [0, 1].

    Source: Schulman et al. 2016, eq. 16.
    """
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma {gamma} and lam {lam} must both be from 0 to 1")
    if answer.numel() and bool((answer.diff() < 0).any()):
        raise ValueError("the tokens must come answer by answer, in order")
    kept = torch.ones_like(answer, dtype=torch.bool) if valid is None else valid
    advantages, returns = torch.zeros_like(values), values.detach().clone()
    place = torch.nonzero(kept).squeeze(1)  # of the kept tokens, answer by answer
    if place.numel() == 0:
        return advantages, returns
    _, row, lengths = torch.unique_consecutive(answer[place], return_inverse=True, return_counts=True)
    column = torch.arange(place.numel(), device=place.device) - (lengths.cumsum(0) - lengths)[row]
    longest = int(lengths.max())
    # Padding on the right is a reward of 0 and a value of 0, which is what comes after the last token anyway.
    reward, value = (values.new_zeros(lengths.numel(), longest + 1) for _ in range(2))
    reward[row, column], value[row, column] = rewards[place].to(values.dtype), values[place]
    error = reward[:, :-1] + gamma * value[:, 1:] - value[:, :-1]
    advantage = torch.zeros_like(error)
    following = error.new_zeros(error.shape[0])
    for t in range(longest - 1, -1, -1):
        following = error[:, t] + gamma * lam * following
        advantage[:, t] = following
    advantages[place] = advantage[row, column]
    return advantages, returns + advantages


@torch.no_grad()
def whiten(values: Tensor, valid: Tensor, shift: bool = True) -> Tensor:
    """Scale to a standard deviation of 1 (unbiased), and with ``shift`` to a mean of 0, over the valid values.

    Args:
        values: shape (N,).
        valid: which of them count, bool, shape (N,).
        shift: whether to centre: advantages are centred; rewards are scaled only, because their zero means something.

    Returns:
        Shape (N,), 0 where not valid. Without ``shift`` the mean stays what it was.
    """
    chosen = values[valid]
    if chosen.numel() == 0:
        return torch.zeros_like(values)
    mean = chosen.mean()
    variance = (chosen - mean).square().sum() / max(chosen.numel() - 1, 1)
    result = (values - mean) * torch.rsqrt(variance + WHITEN_EPSILON)
    return torch.where(valid, result if shift else result + mean, 0.0)


@torch.no_grad()
def group_advantages(rewards: Tensor, groups: Tensor, kind: GroupAdvantage) -> Tensor:
    """Each answer's reward against those of its group.

    - ``grpo``: (r - mean) / (std + 1e-4), the standard deviation unbiased.
    - ``dr-grpo``: r - mean; no division, which would weigh the easiest and the hardest prompts most.
    - ``rloo``: r - mean of the group's other answers.

    Args:
        rewards: one for each answer, finite, shape (A,).
        groups: which group an answer belongs to, int64 from 0, shape (A,).
        kind: which of the three.

    Returns:
        Shape (A,). Exactly 0 in a group whose rewards are all equal, a group of one included: there is nothing to
        compare with.

    Raises:
        ValueError: no such kind.

    Source: Shao et al. 2024, section 4.1.2; Liu et al. 2025 (Dr. GRPO); Ahmadian et al. 2024 (RLOO).
    """
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    equal = zero_variance(rewards, groups)
    sizes = torch.bincount(groups)
    sums = rewards.new_zeros(sizes.numel()).index_add(0, groups, rewards)
    centred = rewards - (sums / sizes.clamp(min=1))[groups]
    if kind == "grpo":
        squares = rewards.new_zeros(sizes.numel()).index_add(0, groups, centred.square())
        result = centred / ((squares / (sizes - 1).clamp(min=1)).sqrt() + GROUP_EPSILON)[groups]
    elif kind == "dr-grpo":
        result = centred
    elif kind == "rloo":
        others = (sums[groups] - rewards) / (sizes - 1).clamp(min=1)[groups]
        result = rewards - others
    else:
        raise ValueError(f"{kind!r} is no group advantage; there are grpo, dr-grpo and rloo")
    # Rounding of the mean would leave equal rewards a difference, which the division would then blow up.
    return torch.where(equal[groups], 0.0, result)


def zero_variance(rewards: Tensor, groups: Tensor) -> Tensor:
    """Which groups teach nothing because all their rewards are equal.

    Args:
        rewards: one for each answer, shape (A,).
        groups: which group an answer belongs to, int64 from 0, shape (A,).

    Returns:
        Bool, shape (groups,); true for a group of one, false for a number that no answer has.
    """
    count = int(groups.max()) + 1 if groups.numel() else 0
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    highest = rewards.new_full((count,), -torch.inf).scatter_reduce(0, groups, rewards, "amax")
    lowest = rewards.new_full((count,), torch.inf).scatter_reduce(0, groups, rewards, "amin")
    return highest == lowest
