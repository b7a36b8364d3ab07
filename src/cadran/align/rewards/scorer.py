"""A learnt reward model as one more reward: the stage that holds the model hands its scoring function over."""

from collections.abc import Callable, Sequence

from pydantic import PrivateAttr

from cadran.align.rewards.built_in import BuiltIn
from cadran.align.rewards.reward import Graded

Scorer = Callable[[Sequence[Graded]], Sequence[float]]
"""From answers to scores; runs in the caller's thread, because it computes with the trainer's threads."""


class Scored(BuiltIn):
    """What a reward model says of each answer."""

    name: str = "reward_model"
    _scorer: Scorer | None = PrivateAttr(default=None)

    def with_scorer(self, scorer: Scorer) -> "Scored":
        """The same reward with the function that scores."""
        copy = self.model_copy()
        copy._scorer = scorer
        return copy

    def __call__(self, graded: Sequence[Graded]) -> list[float]:
        """The model's scores.

        Raises:
            ValueError: no scoring function was given.
        """
        if self._scorer is None:
            raise ValueError("no reward model was given")
        return list(self._scorer(graded))
