"""What one optimizer step learns from: the loop asks an objective for gradients and knows nothing else of it."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the gradients of a step came from.

    Attributes:
        loss: as it is minimised.
        figures: what a curve is drawn of, by name.
        named: which rows it was, for an error message.
        tokens: how many were read.
    """

    loss: float
    figures: dict[str, float]
    named: str
    tokens: int


class Objective(Protocol):
    """Something to minimise, step by step.

    The gradients of a step are a pure function of the weights, the objective's own state and the step's number: that is
    all that makes an interrupted training end with the same bytes as one that was not.
    """

    @property
    def period(self) -> int:
        """A training can be left, and gone on with, after every so many steps (1; more where a step reads what an
        earlier one drew)."""

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of optimizer step ``step`` (0, 1, 2, ...) to ``grad`` of the trainable parameters."""

    def state(self) -> dict[str, Tensor]:
        """What a resume needs besides weights, optimizers and the step."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
