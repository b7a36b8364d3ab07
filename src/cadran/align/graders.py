"""Who says what answers are worth: reward functions that read text, or a reward model that reads the very ids."""

from collections.abc import Callable, Sequence

import torch

from cadran.align.branches import Prompted, pack_for
from cadran.align.reward_model import RewardModel
from cadran.align.rewards.reward import Graded, Grades, Weighted, grade
from cadran.align.rewards.scorer import Scored

Grader = Callable[[Sequence[Graded], Sequence[Prompted]], Grades]
"""From A answers, as text answer by answer and as ids prompt by prompt, to what they are worth."""


def by_functions(rewards: Sequence[Weighted], *, judge: Grader | None = None, timeout: float = 60.0) -> Grader:
    """Rewards as functions of text; see ``rewards.reward.grade``.

    Args:
        rewards: at least one.
        judge: what stands behind ``reward_model`` among them.
        timeout: see there.
    """

    def graded_by_functions(graded: Sequence[Graded], items: Sequence[Prompted]) -> Grades:
        given = [_judged(each, judge, items) for each in rewards]
        return grade(given, graded, timeout=timeout)

    return graded_by_functions


def _judged(weighted: Weighted, judge: Grader | None, items: Sequence[Prompted]) -> Weighted:
    """The reward, and if it is the reward model's, with the ids that it reads."""
    if judge is None or not isinstance(weighted.reward, Scored):
        return weighted
    scored = weighted.reward.with_scorer(lambda graded: judge(graded, items).totals.tolist())
    return Weighted(scored, weighted.weight)


def by_model(
    model: RewardModel, pad: int, *, micro: int = 4, dtype: torch.dtype | None = None, name: str = "model"
) -> Grader:
    """A reward model of the policy's own vocabulary: normalised scores at the last token of each answer.

    Args:
        model: put in evaluation mode.
        pad: id put in empty places of a row.
        micro: prompts in one pass.
        dtype: of the matrix products.
        name: of the reward in the figures.
    """
    model.eval()

    @torch.no_grad()
    def graded_by_model(graded: Sequence[Graded], items: Sequence[Prompted]) -> Grades:
        parts = [
            model.rewards(pack_for(model.transformer, items[start : start + micro], pad), dtype).float().cpu()
            for start in range(0, len(items), micro)
        ]
        scores = torch.cat(parts)
        return Grades(scores, {name: scores})

    return graded_by_model
