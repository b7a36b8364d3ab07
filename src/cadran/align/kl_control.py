"""What holds a policy near its reference: the reference's log-probabilities, and a coefficient that finds its size.

The coefficient is state of a training: it depends on all rollouts so far and must survive a resume.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cadran.align.branches import Branches
from cadran.align.logprobs import model_logprobs
from cadran.align.losses.kl import adaptive_coefficient
from cadran.errors import UserError
from cadran.model.lora import active_adapter, without_adapter
from cadran.model.transformer import Transformer

TokenReference = Callable[[Branches, float], Tensor]
"""From a batch and the sampling temperature to the log-probability of every answer token, shape (N,), no gradients."""


def adapter_off(model: Transformer, dtype: torch.dtype | None = None) -> TokenReference:
    """The reference that a model is without its adapter.

    Args:
        model: the policy.
        dtype: of the matrix products, as in training.

    Raises:
        UserError: no adapter acts upon it, so that the policy would be compared with itself.
    """
    if active_adapter(model) is None:
        raise UserError("the model has no adapter to switch off; give the reference as a model of its own")

    @torch.no_grad()
    def logprobs(batch: Branches, temperature: float) -> Tensor:
        with without_adapter(model):
            return model_logprobs(model, batch, dtype=dtype, temperature=temperature)[0]

    return logprobs


def frozen(model: Transformer, dtype: torch.dtype | None = None) -> TokenReference:
    """The reference that another model is, with the policy's vocabulary; it is put in evaluation mode."""
    model.eval()

    @torch.no_grad()
    def logprobs(batch: Branches, temperature: float) -> Tensor:
        return model_logprobs(model, batch, dtype=dtype, temperature=temperature)[0]

    return logprobs


class KlControl:
    """The coefficient of the KL penalty.

    Args:
        coefficient: at first.
        target: nats per answer that the KL is steered to; None keeps the coefficient.
        horizon: answers over which a KL of twice the target raises it by a fifth.

    Raises:
        UserError: a number out of its range.

    Source: Ziegler et al. 2019, section 2.2.
    """

    def __init__(self, coefficient: float, target: float | None = None, horizon: float = 10_000) -> None:
        if coefficient < 0:
            raise UserError(f"the KL coefficient is {coefficient}; give 0 for none or a positive number, e.g. 0.05")
        if target is not None and not (target > 0 and coefficient > 0 and horizon > 0):
            raise UserError(
                f"a KL target of {target} with coefficient {coefficient} and horizon {horizon} steers nothing; "
                "give positive numbers, or no target"
            )
        self.coefficient, self.target, self.horizon = coefficient, target, horizon

    def update(self, kl: float, answers: int) -> None:
        """Learn from a round of rollouts.

        Args:
            kl: nats, mean over the answers.
            answers: how many there were.
        """
        if self.target is not None:
            self.coefficient = adaptive_coefficient(self.coefficient, kl, self.target, answers, self.horizon)

    def state(self) -> dict[str, Tensor]:
        """The coefficient, float64."""
        return {"kl_coefficient": torch.tensor(self.coefficient, dtype=torch.float64)}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what ``state`` gave."""
        self.coefficient = float(state["kl_coefficient"])
