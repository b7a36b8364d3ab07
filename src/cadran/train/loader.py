"""Batches as a pure function of (shard fingerprint, seed, step): resuming needs to know the step and nothing else."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadran.corpus.shards import TokenShard
from cadran.train.loss import IGNORED
from cadran.train.packing import Piece, epoch_rows

PADDING_SEGMENT = -1


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one optimizer step.

    Attributes:
        ids: inputs, int64, shape (R, T).
        targets: next tokens, ``IGNORED`` where nothing is to be learnt, int64, shape (R, T).
        segments: document of each position inside its row, int32, shape (R, T); padding has its own.
        valid: number of targets that count, over all rows.
        rows: the pieces of each row, to name a batch in an error message.
    """

    ids: Tensor
    targets: Tensor
    segments: Tensor
    valid: int
    rows: list[list[Piece]]


class TokenLoader:
    """Reads a shard in seeded, packed order.

    Args:
        shard: documents as tokens.
        context: pairs in a row.
        rows: rows in a batch.
        seed: of the order.
        split: whether documents may be cut to fill rows (pre-training) or must stay whole (chats).
        pad: id put in empty positions.
    """

    def __init__(
        self, shard: TokenShard, context: int, rows: int, seed: int, *, split: bool = True, pad: int = 0
    ) -> None:
        self.shard, self.context, self.rows, self.seed, self.split, self.pad = shard, context, rows, seed, split, pad
        self._lengths = (np.diff(shard.offsets) - 1).tolist()
        # The order depends on the content too: another corpus of the same lengths is shuffled otherwise.
        self._seed = (seed * 0x9E3779B1 + int(shard.fingerprint[:12], 16)) % 2**63
        self._first_row = [0]  # of each epoch, over all epochs
        self._epochs: dict[int, list[list[Piece]]] = {}

    @property
    def pairs(self) -> int:
        """Targets in one epoch, padding apart."""
        return int(sum(self._lengths))

    def _epoch(self, epoch: int) -> list[list[Piece]]:
        if epoch not in self._epochs:
            rows = epoch_rows(self._lengths, self.context, self._seed, epoch, split=self.split)
            self._epochs = {e: r for e, r in self._epochs.items() if e >= epoch - 1}
            self._epochs[epoch] = rows
            if len(self._first_row) == epoch + 1:
                self._first_row.append(self._first_row[epoch] + len(rows))
        return self._epochs[epoch]

    def row(self, index: int) -> tuple[int, list[Piece]]:
        """Epoch and pieces of the row number ``index``, counted over all epochs."""
        while self._first_row[-1] <= index:
            self._epoch(len(self._first_row) - 1)
        epoch = next(e for e in range(len(self._first_row) - 2, -1, -1) if self._first_row[e] <= index)
        return epoch, self._epoch(epoch)[index - self._first_row[epoch]]

    def rows_in_epoch(self, epoch: int = 0) -> int:
        """Rows of one epoch."""
        return len(self._epoch(epoch))

    def batch(self, step: int) -> Batch:
        """The batch of optimizer step ``step`` (0, 1, 2, ...), whatever was read before."""
        shape = (self.rows, self.context)
        ids = np.full(shape, self.pad, dtype=np.int64)
        targets = np.full(shape, IGNORED, dtype=np.int64)
        segments = np.full(shape, PADDING_SEGMENT, dtype=np.int32)
        rows = [self.row(step * self.rows + r)[1] for r in range(self.rows)]
        for r, row in enumerate(rows):
            column = 0
            for number, piece in enumerate(row):
                first = int(self.shard.offsets[piece.document]) + piece.start
                last, end = first + piece.length, column + piece.length
                ids[r, column:end] = self.shard.tokens[first:last]
                targets[r, column:end] = self.shard.tokens[first + 1 : last + 1]
                if self.shard.supervised is not None:
                    targets[r, column:end][self.shard.supervised[first + 1 : last + 1] == 0] = IGNORED
                segments[r, column:end] = number
                column = end
        valid = int((targets != IGNORED).sum())
        return Batch(torch.from_numpy(ids), torch.from_numpy(targets), torch.from_numpy(segments), valid, rows)
