"""Pieces of sequences, and the batch that they make together. No torch in this file."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cadran.engine.runner import Batch


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive tokens of one sequence.

    Attributes:
        ids: the tokens, at least one.
        start: position of the first of them.
        table: the sequence's blocks, with room for ``start + len(ids)`` positions.
        outputs: how many of its last tokens the logits are wanted of.
    """

    ids: Sequence[int]
    start: int
    table: Sequence[int]
    outputs: int = 1


def joined(pieces: Sequence[Piece]) -> Batch:
    """One pass over pieces of different sequences, in their order.

    Args:
        pieces: at least one; of each sequence at most one.
    """
    ends = np.cumsum([len(piece.ids) for piece in pieces])
    width = max(len(piece.table) for piece in pieces)
    tables = np.zeros((len(pieces), width), np.int32)
    for row, piece in enumerate(pieces):
        tables[row, : len(piece.table)] = piece.table
    return Batch(
        ids=np.concatenate([np.asarray(piece.ids, np.int32) for piece in pieces]),
        positions=np.concatenate([np.arange(p.start, p.start + len(p.ids), dtype=np.int32) for p in pieces]),
        starts=np.concatenate([[0], ends]).astype(np.int32),
        tables=tables,
        outputs=np.concatenate(
            [np.arange(end - piece.outputs, end, dtype=np.int32) for piece, end in zip(pieces, ends, strict=True)]
        ),
    )
