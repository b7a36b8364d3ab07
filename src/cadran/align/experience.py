"""One round of rollouts, graded: what PPO and GRPO learn from until the next.

Answers lie prompt by prompt; the numbers of their tokens lie one after the other in the same order, so that those of
some prompts are picked by index, whatever micro-batches they were computed in.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadran.align.branches import Branches, Prompted, pack_for
from cadran.align.graders import Grader
from cadran.align.prompt_loader import RolloutPrompt
from cadran.align.rewards.reward import Graded
from cadran.align.rollout import Rollout
from cadran.errors import UserError
from cadran.model.transformer import Transformer

ROUNDING = 1e-6
"""What a sum of weighted rewards may lack of a right answer's worth."""


class Experience:
    """Graded answers to some prompts.

    Args:
        prompts: P of them.
        rollouts: their answers, equally many to each, in the order of the prompts.
        grader: rewards them.

    Raises:
        UserError: a reward is missing or not a finite number.

    Attributes:
        answers_each: answers to a prompt.
        rewards: float64, shape (A,).
        parts: by name of the reward function, float64, shape (A,).
        engine_logprobs: of every token of the answers, float32, shape (N,).
    """

    def __init__(self, prompts: Sequence[RolloutPrompt], rollouts: Sequence[Rollout], grader: Grader) -> None:
        self.prompts, self.rollouts = list(prompts), list(rollouts)
        self.answers_each = len(rollouts) // len(prompts)
        grades = grader([self._graded(rollout) for rollout in rollouts], self.items(range(len(prompts))))
        self.rewards = self._checked(grades.totals, "")
        self.parts = {name: self._checked(values, name) for name, values in grades.values.items()}
        self.engine_logprobs = torch.tensor([p for r in self.rollouts for p in r.engine_logprobs], dtype=torch.float32)
        self._firsts = np.cumsum([0, *(len(r.ids) for r in self.rollouts)])

    def _graded(self, rollout: Rollout) -> Graded:
        prompt = self.prompts[rollout.prompt]
        named = {"source": prompt.source} if prompt.source else {}
        return Graded(prompt.messages, rollout.text, {**prompt.reference, **named}, rollout.ended)

    def _checked(self, values: Tensor, name: str) -> Tensor:
        values = values.detach().double().cpu()
        if values.shape != (len(self.rollouts),):
            raise UserError(
                f"the reward {name} graded {len(values)} of {len(self.rollouts)} answers; return one number for each"
            )
        bad = torch.nonzero(~values.isfinite())
        if len(bad):
            prompt = self.prompts[self.rollouts[int(bad[0])].prompt]
            raise UserError(
                f"the reward {name} is {float(values[int(bad[0])])} for an answer to "
                f"{prompt.source or 'a prompt'}; return a finite number for every answer"
            )
        return values

    @property
    def groups(self) -> Tensor:
        """Which prompt each answer belongs to, int64, shape (A,)."""
        return torch.tensor([r.prompt for r in self.rollouts])

    @property
    def lengths(self) -> Tensor:
        """Tokens of each answer, int64, shape (A,)."""
        return torch.from_numpy(np.diff(self._firsts))

    @property
    def ended(self) -> Tensor:
        """Which answers ended by themselves, bool, shape (A,)."""
        return torch.tensor([r.ended for r in self.rollouts])

    def answers(self, prompt: int) -> range:
        """Numbers of the answers to a prompt."""
        return range(prompt * self.answers_each, (prompt + 1) * self.answers_each)

    def kept(self, prompts: Sequence[int], mask: Tensor | None = None) -> list[int]:
        """Numbers of the answers to some prompts, of those that ``mask`` (bool, shape (A,)) lets through."""
        return [answer for p in prompts for answer in self.answers(p) if mask is None or mask[answer]]

    def items(self, prompts: Sequence[int], mask: Tensor | None = None) -> list[Prompted]:
        """Ids of those answers; prompts that none is left of are left out."""
        found = ((p, self.kept([p], mask)) for p in prompts)
        return [
            Prompted(tuple(self.prompts[p].ids), tuple(self.rollouts[answer].ids for answer in answers))
            for p, answers in found
            if answers
        ]

    def places(self, answers: Sequence[int]) -> Tensor:
        """Where the numbers of some answers' tokens lie among those of all, int64."""
        ranges = [np.arange(self._firsts[a], self._firsts[a + 1]) for a in answers]
        return torch.from_numpy(np.concatenate(ranges) if ranges else np.zeros(0, np.int64))

    def figures(self, success: float, counted: str = "") -> dict[str, float]:
        """Means over the answers, for the curves.

        Args:
            success: an answer that is worth so much is right.
            counted: name of the reward that decides it; "" for the sum of all.
        """
        deciding = self.parts.get(counted, self.rewards)
        groups = self.rewards.view(-1, self.answers_each)
        figures = {
            "reward": float(self.rewards.mean()),
            "success": float((deciding >= success - ROUNDING).double().mean()),
            "length": float(self.lengths.double().mean()),
            "truncated_share": 1.0 - float(self.ended.double().mean()),
        }
        if self.answers_each > 1:
            figures["zero_variance_share"] = float((groups.amax(1) == groups.amin(1)).double().mean())
        return figures | {f"reward_{name}": float(values.mean()) for name, values in self.parts.items()}

    def named(self, prompts: Sequence[int]) -> str:
        """Some prompts, for an error message."""
        names = [self.prompts[p].source or f"prompt {p}" for p in prompts]
        return "answers to " + ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward and backward pass reads.

    Attributes:
        batch: rows, where the model is.
        answers: their numbers, in the order of the batch.
        places: of their tokens among all of the experience, shape (N,).
    """

    batch: Branches
    answers: list[int]
    places: Tensor


def micro_batches(
    model: Transformer, experience: Experience, prompts: Sequence[int], micro: int, pad: int, mask: Tensor | None = None
) -> Iterator[MicroBatch]:
    """Cut some prompts with their answers into pieces of ``micro`` prompts each."""
    for start in range(0, len(prompts), micro):
        chosen = prompts[start : start + micro]
        answers = experience.kept(chosen, mask)
        if answers:
            batch = pack_for(model, experience.items(chosen, mask), pad)
            yield MicroBatch(batch, answers, experience.places(answers))


def minibatch(prompts: Sequence[int], count: int, update: int, seed: tuple[int, ...]) -> list[int]:
    """The prompts of one update: those of an epoch shuffled and dealt out evenly.

    Args:
        prompts: of the round.
        count: minibatches in an epoch.
        update: number of the update within the round.
        seed: of the training and the round.
    """
    epoch, part = divmod(update, count)
    order = np.random.Generator(np.random.PCG64([*seed, epoch])).permutation(len(prompts))
    return [prompts[i] for i in sorted(np.array_split(order, count)[part].tolist())]
