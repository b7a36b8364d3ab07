"""The first thing to be sure of in PPO and GRPO: before the first update of a round, every importance ratio is 1."""

import torch
from torch import Tensor

from cadran.errors import UserError

RATIO_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""By how many nats a token's log-probability may differ between the pass before the first update and the one in it:
they run through other kernels, with and without gradients. Anything more is another function (dropout, other ids)."""
COARSE_TOLERANCE = 0.2
"""The same in 16 bits."""


def check_ratio(logprobs: Tensor, old: Tensor, dtype: torch.dtype | None) -> None:
    """Assert that nothing has changed since the rollouts were passed through the policy.

    Args:
        logprobs: with gradients, shape (N,).
        old: computed just before, without, shape (N,).
        dtype: of the matrix products; None for that of ``logprobs``.

    Raises:
        UserError: they differ by more than ``RATIO_TOLERANCE``.
    """
    most = float((logprobs.detach() - old).abs().max()) if len(old) else 0.0
    tolerance = RATIO_TOLERANCE.get(dtype or logprobs.dtype, COARSE_TOLERANCE)
    if not most <= tolerance:
        raise UserError(
            f"before the first update a token's log-probability moved by {most:.3g} nats (at most {tolerance} is "
            "rounding), so the policy is not the one that was asked a moment ago; set its dropout to 0, and let "
            "nothing else write to its weights"
        )
