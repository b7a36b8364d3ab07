"""The objective of SFT on a user's rows: the answers in conversations, packed so that what they share is read once.

What all conversations begin with, such as the template's system message, stands once a row; a mask keeps the rest of
them apart. Loss and gradients are those of conversations read one by one, for the work of what differs (LAB.md).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cadran.align.branches import Prompted, answer_states, pack_for
from cadran.align.pair_loader import PairLoader, named
from cadran.corpus.shards import TokenShard
from cadran.model.transformer import Transformer
from cadran.train.loss import IGNORED, head_cross_entropy
from cadran.train.objective import Learnt


class ConversationObjective:
    """Cross-entropy of the supervised tokens of conversations; implements ``train.objective.Objective``.

    Args:
        model: with an adapter upon it, only that is trained.
        shard: conversations, with what is learnt of each.
        rows: conversations in a step.
        micro: of them in one forward and backward pass.
        seed: of the order.
        dtype: of the matrix products.
        pad: id put in empty places.
        sources: names of the conversations for an error message; may be empty.
    """

    period = 1

    def __init__(
        self,
        model: Transformer,
        shard: TokenShard,
        rows: int,
        micro: int,
        seed: int,
        dtype: torch.dtype = torch.float32,
        pad: int = 0,
        sources: Sequence[str] = (),
    ) -> None:
        self.model, self.micro, self.dtype, self.pad, self.sources = model, micro, dtype, pad, sources
        self.items = conversations(shard)
        self.loader = PairLoader(self.items, rows, seed)

    def gradients(self, step: int) -> Learnt:
        """Add the gradients of the mean loss over the supervised tokens of step ``step``."""
        chosen = self.loader.batch(step)
        count = sum(sum(flags) for number in chosen for flags in self.items[number].supervised or ())
        loss, read = 0.0, 0
        for start in range(0, len(chosen), self.micro):
            batch = pack_for(
                self.model, [self.items[number] for number in chosen[start : start + self.micro]], self.pad
            )
            states = answer_states(self.model, batch, self.dtype)
            targets = torch.where(batch.valid, batch.targets, IGNORED)
            head = self.model.lm_head.weight.to(states.dtype)
            part = head_cross_entropy(states, head, targets, count, self.model.config.logit_cap)
            part.backward()  # type: ignore[no-untyped-call]
            loss, read = loss + float(part.detach()), read + batch.tokens
        return Learnt(loss, {}, named(chosen, self.sources, "rows"), read)

    def state(self) -> dict[str, Tensor]:
        """Nothing: the order is a function of the step."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Nothing."""


def conversations(shard: TokenShard) -> list[Prompted]:
    """The documents of a shard, each cut before the first token that is learnt of it."""
    items = []
    for document in range(shard.documents):
        start, end = int(shard.offsets[document]), int(shard.offsets[document + 1])
        ids = tuple(int(id) for id in shard.tokens[start:end])
        flags = (False, *(True,) * (end - start - 1))
        if shard.supervised is not None:
            flags = tuple(bool(flag) for flag in shard.supervised[start:end])
        # The very first token has nothing before it to be predicted from.
        border = max(1, flags.index(True) if any(flags) else 1)
        items.append(Prompted(ids[:border], (ids[border:],), (flags[border:],)))
    return items
