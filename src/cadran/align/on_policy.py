"""Rows that the student writes itself, for its teacher to comment on: it learns where it goes, not where others went.

A student that only ever reads given rows is never told what to do after its own mistakes. So in a share of the steps it
answers the prompts itself, with the weights of that step, and the teacher says at each of its tokens what it would have
said. Source: Agarwal et al. 2024 (GKD), algorithm 1.
"""

import math

import numpy as np
import torch

from cadran.align.prompt_loader import PromptLoader, RolloutPrompt
from cadran.align.rollout import RolloutParams, sample_rollouts
from cadran.align.rollout_engine import RolloutSource
from cadran.corpus.shards import TokenShard
from cadran.train.loader import PADDING_SEGMENT, Batch
from cadran.train.loss import IGNORED
from cadran.train.objective import Learnt, Objective
from cadran.train.packing import pack


class StudentRows:
    """Batches that the student writes; give an instance to ``DistillationObjective`` as its ``batches``.

    Args:
        source: who draws the answers, with the student's weights as they stand.
        loader: which prompts are answered at which step.
        params: how the answers are drawn.
        context: longest row; holds the longest prompt with the longest answer.
        seed: of the draws.
        pad: id put in empty positions.

    Attributes:
        length: mean tokens of the answers drawn last.
        truncated: share of those that did not end by themselves.
    """

    def __init__(
        self, source: RolloutSource, loader: PromptLoader, params: RolloutParams, context: int, seed: int, pad: int = 0
    ) -> None:
        self.source, self.loader, self.params = source, loader, params
        self.context, self.seed, self.pad = context, seed, pad
        self.length = self.truncated = 0.0

    def __call__(self, step: int) -> Batch:
        """The rows of optimizer step ``step``: a pure function of the student's weights, the seed and the step.

        Returns:
            Whole conversations, packed; the targets are the answers' own tokens. Its ``rows`` name no document.
        """
        prompts = self.loader.batch(step)
        # The text of the answers is nobody's business here.
        answers = sample_rollouts(self.source, prompts, 1, self.params, self.seed, step, decode=lambda ids: "")
        self.length = sum(len(answer.ids) for answer in answers) / len(answers)
        self.truncated = sum(not answer.ended for answer in answers) / len(answers)
        return packed(
            [(prompt.ids, answer.ids) for prompt, answer in zip(prompts, answers, strict=True)], self.context, self.pad
        )


def packed(conversations: list[tuple[tuple[int, ...], tuple[int, ...]]], context: int, pad: int = 0) -> Batch:
    """Prompts with an answer each as rows of which only the answers are targets.

    Args:
        conversations: (ids of the prompt, ids of the answer), neither empty.
        context: longest row; they are as long as the fullest of them.
        pad: id put in empty positions.

    Raises:
        ValueError: one of them is longer than a row.
    """
    lengths = [len(prompt) + len(answer) - 1 for prompt, answer in conversations]
    rows = pack(lengths, context, range(len(lengths)), split=False)
    shape = (len(rows), max(sum(piece.length for piece in row) for row in rows))
    ids, targets = np.full(shape, pad, np.int64), np.full(shape, IGNORED, np.int64)
    segments = np.full(shape, PADDING_SEGMENT, np.int32)
    for r, row in enumerate(rows):
        column = 0
        for number, piece in enumerate(row):
            prompt, answer = conversations[piece.document]
            end = column + piece.length
            ids[r, column:end] = (*prompt, *answer)[:-1]
            targets[r, end - len(answer) : end] = answer  # a state predicts the token after it
            segments[r, column:end] = number
            column = end
    made = torch.from_numpy
    valid = sum(len(answer) for _, answer in conversations)
    return Batch(made(ids), made(targets), made(segments), valid, [[] for _ in rows])


def shard_prompts(shard: TokenShard, longest: int) -> list[RolloutPrompt]:
    """What the conversations of a shard ask: each of them up to its last answer.

    Args:
        shard: with its supervised tokens marked.
        longest: most tokens of a prompt; longer ones are left out.

    Returns:
        Prompts of ids alone, without messages.
    """
    prompts: list[RolloutPrompt] = []
    if shard.supervised is None:
        return prompts
    for document in range(shard.documents):
        first, last = int(shard.offsets[document]), int(shard.offsets[document + 1])
        begins = np.flatnonzero(np.diff(shard.supervised[first:last].astype(np.int8), prepend=0) == 1)
        if len(begins) and 0 < begins[-1] <= longest:
            ids = tuple(shard.tokens[first : first + int(begins[-1])].tolist())
            prompts.append(RolloutPrompt(ids, [], {}, f"document {document} of the shard"))
    return prompts


def is_own(step: int, share: float) -> bool:
    """Whether the rows of a step are the student's own: so many of all steps, evenly spread, whatever came before."""
    return math.floor((step + 1) * share) > math.floor(step * share)


class PartlyOwn:
    """Distillation that reads given rows at some steps and at the others what the student wrote.

    The figures of the two are kept apart, because they are not of the same rows: ``distillation`` and
    ``cross_entropy`` of given ones, ``own_distillation``, ``length`` and ``truncated_share`` of the student's.

    Args:
        given: objective of the steps with given rows.
        own: objective of the others, whose batches come from ``rows``.
        rows: the student's.
        share: of the steps that are the student's own, from 0 to 1.
    """

    period = 1

    def __init__(self, given: Objective, own: Objective, rows: StudentRows, share: float) -> None:
        self.given, self.own, self.rows, self.share = given, own, rows, share

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the rows of ``step``; see ``DistillationObjective.gradients``."""
        if not is_own(step, self.share):
            return self.given.gradients(step)
        learnt = self.own.gradients(step)
        figures = {
            "own_distillation": learnt.figures["distillation"],
            "length": self.rows.length,
            "truncated_share": self.rows.truncated,
        }
        return Learnt(learnt.loss, figures, learnt.named, learnt.tokens)

    def state(self) -> dict[str, torch.Tensor]:
        """Nothing: the rows are a function of the weights and the step."""
        return {}

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing."""
