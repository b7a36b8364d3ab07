"""The order in which prompts with answers are learnt from: a function of (content, seed, step) and of nothing else.

Epochs are laid end to end and cut into batches, so the last batch of an epoch is filled from the next one and every
item appears once an epoch. What was read before does not matter: a resume needs to know the step only.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from cadran.align.branches import Prompted
from cadran.errors import UserError

NAMED = 8
"""Rows that an error message names before it says "..."."""


class PairLoader:
    """Batches of items, by number.

    Args:
        items: what is learnt from: pairs (two answers each), or single answers.
        rows: items in a batch.
        seed: of the order.

    Raises:
        UserError: there is no item.
        ValueError: ``rows`` is not positive.
    """

    def __init__(self, items: Sequence[Prompted], rows: int, seed: int) -> None:
        if not items:
            raise UserError("there is no row to learn from; give preference rows that fit the model's context")
        if rows < 1:
            raise ValueError(f"a batch of {rows} items is none")
        self.rows, self.seed, self.count = rows, seed, len(items)
        # The order depends on the content too: other rows of the same number are shuffled otherwise.
        self._content = int(fingerprint(items)[:12], 16)
        self._orders: dict[int, list[int]] = {}

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every item has appeared at least once."""
        return -(-self.count // self.rows)

    def batch(self, step: int) -> list[int]:
        """Indices of the items of optimizer step ``step`` (0, 1, 2, ...), ``rows`` of them."""
        places = (divmod(place, self.count) for place in range(step * self.rows, (step + 1) * self.rows))
        return [self._order(epoch)[index] for epoch, index in places]

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            generator = np.random.Generator(np.random.PCG64([self.seed, self._content, epoch]))
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = generator.permutation(self.count).tolist()
        return self._orders[epoch]


def fingerprint(items: Sequence[Prompted]) -> str:
    """Hexadecimal SHA-256 of prompts, answers and what of them is supervised, in their order."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(len(item.answers).to_bytes(8, "little"))
        for ids in (item.prompt, *item.answers):
            digest.update(np.array([len(ids), *ids], dtype="<i8").tobytes())
        for flags in item.supervised or ():
            digest.update(np.array([len(flags), *flags], dtype="<i8").tobytes())
    return digest.hexdigest()


def named(indices: Sequence[int], sources: Sequence[str] = (), noun: str = "pairs") -> str:
    """A batch for an error message: the names of its first rows, or their numbers from 0.

    Args:
        indices: items of the batch.
        sources: name of every item; empty when they have none.
        noun: what the numbers count.
    """
    shown = [sources[i] if sources else str(i) for i in list(indices)[:NAMED]]
    text = ", ".join(shown) + (", ..." if len(indices) > NAMED else "")
    return text if sources else f"{noun} {text}"
