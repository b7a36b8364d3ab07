"""Conversations that all begin alike, a system message for one: what they share is read once a row, and not once each.

The loss and its gradients are those of conversations read one by one, for the work of what differs (LAB.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cadran.align.branches import Branches, Prompted, answer_states, pack_answers, shares_prompts
from cadran.align.pair_loader import PairLoader, named
from cadran.corpus.shards import TokenShard
from cadran.model.transformer import Transformer
from cadran.train.loss import IGNORED, head_cross_entropy
from cadran.train.objective import Learnt

WORTH = 8
"""Tokens in common from which sharing them pays."""

WIDEST = 256
"""Tokens of a row, the shared ones included, where no conversation is longer."""


def common_beginning(shard: TokenShard) -> int:
    """Tokens that all documents of a shard begin with, and of which none is learnt.

    At least one token of every document is left behind it.
    """
    first = shard.ids(0)
    length = len(first) - 1
    for document in range(shard.documents):
        start, end = int(shard.offsets[document]), int(shard.offsets[document + 1])
        length = min(length, end - start - 1)
        same = shard.tokens[start : start + length] == first[:length]
        if shard.supervised is not None:
            same &= shard.supervised[start : start + length] == 0
        if not same.all():
            length = int(same.argmin())
    return length


class CommonBeginning:
    """Cross-entropy of the answers of conversations with one beginning; implements ``train.objective.Objective``.

    Args:
        model: whose layers may share a prompt (``branches.shares_prompts``).
        shard: conversations, with what is learnt of each.
        beginning: tokens that they have in common, at least 1.
        rows: conversations in a step.
        micro: of them in one forward and backward pass.
        seed: of the order.
        dtype: of the matrix products.
        pad: id put in empty places.

    Raises:
        ValueError: there is nothing in common, or the model cannot share it.
    """

    period = 1

    def __init__(
        self,
        model: Transformer,
        shard: TokenShard,
        beginning: int,
        rows: int,
        micro: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        pad: int = 0,
    ) -> None:
        if beginning < 1 or not shares_prompts(model):
            raise ValueError(f"{beginning} tokens cannot be read once for all by this model")
        self.model, self.micro, self.dtype, self.pad = model, micro, dtype, pad
        self.prompt = tuple(int(id) for id in shard.ids(0)[:beginning])
        self.rests: list[tuple[tuple[int, ...], tuple[bool, ...]]] = []
        for document in range(shard.documents):
            start, end = int(shard.offsets[document]) + beginning, int(shard.offsets[document + 1])
            flags = (True,) * (end - start)
            if shard.supervised is not None:
                flags = tuple(bool(flag) for flag in shard.supervised[start:end])
            self.rests.append((tuple(int(id) for id in shard.tokens[start:end]), flags))
        items = [Prompted(self.prompt, (ids,), (flags,)) for ids, flags in self.rests]
        self.loader = PairLoader(items, rows, seed)

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the mean loss over the answers' tokens of step ``step``."""
        documents = self.loader.batch(step)
        count = sum(sum(self.rests[document][1]) for document in documents)
        loss, read = 0.0, 0
        for start in range(0, len(documents), self.micro):
            batch = self._packed(documents[start : start + self.micro])
            part = self._loss(batch, count)
            part.backward()  # type: ignore[no-untyped-call]
            loss, read = loss + float(part.detach()), read + batch.tokens
        return Learnt(loss, {}, named(documents, noun="rows"), read)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the order is a function of the step."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""

    def _packed(self, documents: Sequence[int]) -> Branches:
        rests = [self.rests[document] for document in documents]
        item = Prompted(self.prompt, tuple(ids for ids, _ in rests), tuple(flags for _, flags in rests))
        batch = pack_answers([item], self.model.config.context, self.pad, widest=WIDEST)
        return batch.to(next(self.model.parameters()).device)

    def _loss(self, batch: Branches, count: int) -> Tensor:
        states = answer_states(self.model, batch, self.dtype)
        head = self.model.lm_head.weight.to(states.dtype)
        targets = torch.where(batch.valid, batch.targets, IGNORED)
        return head_cross_entropy(states, head, targets, count, self.model.config.logit_cap)
