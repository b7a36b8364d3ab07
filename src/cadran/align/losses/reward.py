"""The reward model's loss: the chosen answer should score above the other one."""

import torch.nn.functional as F
from torch import Tensor


def bradley_terry_losses(
    chosen: Tensor, rejected: Tensor, margin: Tensor | float = 0.0, centring: float = 0.0
) -> Tensor:
    """Negative log-likelihood that the chosen answer beats the other: -log s(chosen - rejected - margin).

    Args:
        chosen: rewards of the preferred answers at their last real token, shape (P,).
        rejected: rewards of the other answers, shape (P,).
        margin: how far apart the two should be, in reward units, shape (P,) or one number.
        centring: weight of (chosen + rejected)^2, which fixes the zero that the likelihood leaves open.

    Returns:
        Nats, shape (P,); finite for any finite input.

    Source: Bradley & Terry 1952; Ouyang et al. 2022, eq. 1; Touvron et al. 2023 (margin); Eisenstein et al. 2023
    (centring).
    """
    losses = -F.logsigmoid(chosen - rejected - margin)
    return losses + centring * (chosen + rejected).square() if centring else losses
