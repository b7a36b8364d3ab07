"""Texts as vectors: the mean of a text's final hidden states, between the steps of whatever else is under way.

The blocks are borrowed from the scheduler's own pool, so no request's memory is touched and none is kept.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cadran.engine.pieces import Piece, joined
from cadran.engine.runner import Runner
from cadran.engine.scheduler import Scheduler

Floats = npt.NDArray[np.float32]


def embedding(
    scheduler: Scheduler,
    runner: Runner,
    sequences: Sequence[Sequence[int]],
    skipped: int,
    budget: int = 512,
    adapter: int = 0,
) -> Generator[None, None, Floats]:
    """Mean final hidden state of each sequence, of length one; a job of ``ComputeThread``.

    Args:
        scheduler: lends the blocks.
        runner: the scheduler's own.
        sequences: ids, each longer than ``skipped`` and no longer than the context.
        skipped: tokens at the start that are read and left out of the mean. What a model keeps in the state of the
            beginning of a text is many times larger than a word's, and the same for all texts.
        budget: most tokens of one pass.
        adapter: that they are read with, by the runner's number; 0 for none.

    Returns:
        Shape (n, width).

    Raises:
        UserError: a sequence needs more blocks than there are.
    """
    result = np.zeros((len(sequences), runner.width), np.float32)
    for group in _groups([len(ids) for ids in sequences], budget):
        needed = [-(-len(sequences[number]) // runner.block_size) for number in group]
        while (blocks := scheduler.borrow(sum(needed))) is None:
            yield  # other requests have them; they end one day
        try:
            sums = np.zeros((len(group), runner.width))
            tables = np.split(np.array(blocks), np.cumsum(needed)[:-1])
            for start in range(0, max(len(sequences[number]) for number in group), budget):
                pieces = [
                    Piece(ids, start, table.tolist(), len(ids))
                    for number, table in zip(group, tables, strict=True)
                    if (ids := sequences[number][start : start + budget])
                ]
                batch = joined(pieces)
                if adapter:
                    batch = replace(batch, adapters=np.full(len(pieces), adapter, np.int32))
                states = runner.hidden(batch)
                places = np.cumsum([0, *(len(piece.ids) for piece in pieces)])
                for row in range(len(pieces)):
                    first = places[row] + max(0, skipped - start)
                    sums[row] += states[first : places[row + 1]].sum(axis=0, dtype=np.float64)
                yield
        finally:
            scheduler.give_back(blocks)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        result[group] = sums / np.maximum(lengths, np.finfo(np.float64).tiny)
    return result


def _groups(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Which sequences are read together: as many as the budget holds, one that is longer alone, in order."""
    groups: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if not groups or length > room:
            groups.append([])
            room = budget
        groups[-1].append(number)
        room -= length
    return groups
