"""Packing: documents into rows of one length, split where a row ends, never cropped.

A document of n tokens gives n - 1 pairs (input, target). A row holds exactly ``context`` pairs. Whole documents are
placed first, the largest that fits (best fit over a window of the shuffled order), and only the space that is left
at the end of a row is filled by splitting. Every pair appears once an epoch, so no text is lost.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 256
"""Documents considered at a time: enough to find good fits, small enough to keep the order random."""


class Piece(NamedTuple):
    """``length`` pairs of ``document`` beginning at its pair ``start``."""

    document: int
    start: int
    length: int


def pack(lengths: Sequence[int], context: int, order: Sequence[int], *, split: bool) -> list[list[Piece]]:
    """Place documents in rows.

    Args:
        lengths: pairs of each document, shape (D,); zero lengths are passed over.
        context: pairs in a row.
        order: a permutation of range(D).
        split: whether a document may be cut to fill a row. Without it a row may end in padding, and a document
            longer than ``context`` raises.

    Returns:
        Rows of pieces. With ``split`` every row but the last is full.

    Raises:
        ValueError: ``split`` is false and a document does not fit in a row.
    """
    rows: list[list[Piece]] = []
    waiting: list[tuple[int, int, int]] = []  # (length, document, start), sorted
    source = iter(order)
    exhausted = False

    def refill() -> None:
        nonlocal exhausted
        while len(waiting) < WINDOW and not exhausted:
            document = next(source, None)
            if document is None:
                exhausted = True
            elif lengths[document] > 0:
                insort(waiting, (int(lengths[document]), int(document), 0))

    refill()
    while waiting:
        row: list[Piece] = []
        space = context
        while space and waiting:
            index = bisect_right(waiting, (space, 2**62, 2**62)) - 1
            if index >= 0:
                length, document, start = waiting.pop(index)
                row.append(Piece(document, start, length))
                space -= length
            elif split:
                # Nothing fits: the longest is cut, because it has the best chance of being cut anyway.
                length, document, start = waiting.pop()
                row.append(Piece(document, start, space))
                insort(waiting, (length - space, document, start + space))
                space = 0
            elif waiting[0][0] > context:
                raise ValueError(f"document {waiting[0][1]} has {waiting[0][0]} pairs and a row {context}")
            else:
                break
            refill()
        rows.append(row)
    return rows


def epoch_rows(lengths: Sequence[int], context: int, seed: int, epoch: int, *, split: bool) -> list[list[Piece]]:
    """Rows of one epoch: a pure function of the lengths, the seed and the epoch.

    The rows are shuffled after packing, because a window that runs dry leaves its long documents for the end.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    rows = pack(lengths, context, generator.permutation(len(lengths)).tolist(), split=split)
    # The last row may be short; it stays last so that the order of the full ones does not depend on it.
    full, rest = (rows[:-1], rows[-1:]) if split else (rows, [])
    return [full[i] for i in generator.permutation(len(full))] + rest
