"""PPO's loss of the value head."""

import torch
from torch import Tensor


def clipped_value_losses(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the greater of two squared errors: of the value, and of the value kept near what it was.

    Args:
        values: V, shape (N,); carries the gradient.
        old_values: what the head said when the answers were sampled, shape (N,).
        returns: R, shape (N,).
        clip: how far from the old value a value counts, in reward units.

    Returns:
        max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2) / 2, shape (N,).

    Raises:
        ValueError: the clip is negative.

    Source: the published code of Schulman et al. 2017; Huang et al. 2024.
    """
    if not clip >= 0:
        raise ValueError(f"clip is {clip}; it must not be negative")
    old_values, returns = old_values.detach(), returns.detach()
    near = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns).square(), (near - returns).square()) / 2
