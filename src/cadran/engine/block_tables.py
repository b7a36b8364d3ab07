"""The block tables of all sequences that have blocks, in one array, and batches made from it.

A step must cost the same however long the sequences are: a row changes only where its sequence gets a block.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cadran.engine.answer import Answer
from cadran.engine.runner import Batch, Ints


class Piece:
    """What one pass reads of one answer.

    Attributes:
        answer: whose tokens.
        count: how many of its ids, from ``answer.kept`` on.
        drafts: guesses read behind them.
        rows: how many of the last tokens the logits are wanted of.
    """

    __slots__ = ("_blocks", "answer", "count", "drafts", "rows")

    def __init__(self, answer: Answer, count: int) -> None:
        self.answer, self.count, self._blocks = answer, count, answer.blocks
        self.drafts: list[int] = []
        self.rows = 0

    @property
    def stands(self) -> bool:
        """Whether the answer still has the blocks that it had, and was not put back for an older one."""
        return self.answer.blocks is self._blocks

    def close(self) -> None:
        """Settle which logits are wanted, when nothing is added any more."""
        answer = self.answer
        end = answer.kept + self.count + len(self.drafts)
        self.rows = max(0, end - max(answer.kept, answer.wanted - 1))

    @property
    def first(self) -> int:
        """Index of the token that the first row of logits is of."""
        return self.answer.kept + self.count + len(self.drafts) - self.rows + 1


class BlockTables:
    """Rows of block numbers.

    Args:
        width: most blocks of a sequence.
    """

    def __init__(self, width: int) -> None:
        self._width = max(1, width)
        self._rows: Ints = np.zeros((16, self._width), np.int32)
        self._free = list(range(15, -1, -1))
        self._count: Ints = np.arange(1 + 16, dtype=np.int32)

    def open(self, answer: Answer) -> None:
        """Give an answer a row, with the blocks that it has."""
        if not self._free:
            size = len(self._rows)
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
            self._free = list(range(2 * size - 1, size - 1, -1))
            self._count = np.arange(1 + 2 * size, dtype=np.int32)
        answer.row = self._free.pop()
        self.rewrite(answer)

    def rewrite(self, answer: Answer) -> None:
        """The blocks of an answer have changed."""
        row = self._rows[answer.row]
        row[: len(answer.blocks)] = answer.blocks
        row[len(answer.blocks) :] = 0

    def append(self, answer: Answer, block: int) -> None:
        """An answer has got one more block."""
        self._rows[answer.row, len(answer.blocks)] = block
        answer.blocks.append(block)

    def close(self, answer: Answer) -> None:
        """Take the row back."""
        if answer.row >= 0:
            self._free.append(answer.row)
            answer.row = -1

    def decoding(self, answers: Sequence[Answer]) -> Batch:
        """One token of each answer, which is its last."""
        count = len(answers)
        return Batch(
            ids=np.array([answer.ids[-1] for answer in answers], np.int32),
            positions=np.array([answer.kept for answer in answers], np.int32),
            starts=self._count[: count + 1],
            tables=self._table(answers),
            outputs=self._count[:count],
            adapters=_adapters(answers),
        )

    def reading(self, pieces: Sequence[Piece]) -> Batch:
        """Any pieces, closed ones."""
        ids: list[int] = []
        positions: list[npt.NDArray[np.int32]] = []
        outputs: list[npt.NDArray[np.int32]] = []
        starts = [0]
        for piece in pieces:
            kept = piece.answer.kept
            ids += piece.answer.ids[kept : kept + piece.count]
            ids += piece.drafts
            end = len(ids)
            positions.append(np.arange(kept, kept + end - starts[-1], dtype=np.int32))
            outputs.append(np.arange(end - piece.rows, end, dtype=np.int32))
            starts.append(end)
        return Batch(
            ids=np.array(ids, np.int32),
            positions=np.concatenate(positions),
            starts=np.array(starts, np.int32),
            tables=self._table([piece.answer for piece in pieces]),
            outputs=np.concatenate(outputs),
            adapters=_adapters([piece.answer for piece in pieces]),
        )

    def _table(self, answers: Sequence[Answer]) -> Ints:
        width = max([len(answer.blocks) for answer in answers])
        return self._rows[:, :width].take([answer.row for answer in answers], axis=0)


def _adapters(answers: Sequence[Answer]) -> Ints | None:
    numbers = [answer.request.adapter for answer in answers]
    return np.array(numbers, np.int32) if any(numbers) else None
