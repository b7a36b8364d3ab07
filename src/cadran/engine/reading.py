"""What a pass reads of a sequence, and what it reads anew where frequencies depend on the length (longrope).

Longrope (Ding et al. 2024) turns a text by other frequencies once it is longer than the original context. Keys and
values are then kept in two stores: of texts that end within it, and of longer ones. What a store holds of a block
follows from the text before it alone, so blocks may be shared by texts of both kinds. No torch in this file.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cadran.engine.runner import Ints
from cadran.errors import UserError

Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class Reading:
    """Tokens of one sequence to be read in one pass.

    Attributes:
        ids: the tokens, shape (T,).
        start: position of the first.
        table: the sequence's blocks.
        block_size: positions in a block.
        outputs: pairs of a row of the result and the position whose state belongs there.
    """

    ids: Ints
    start: int
    table: Ints
    block_size: int
    outputs: tuple[tuple[int, int], ...]

    @property
    def end(self) -> int:
        """Position after the last."""
        return self.start + len(self.ids)

    def places(self, start: int, end: int) -> Places:
        """Blocks of the positions from ``start`` to ``end``, and the offsets in them."""
        positions = np.arange(start, end)
        return self.table[positions // self.block_size].astype(np.int64), positions % self.block_size


class TwoLengths:
    """The ids in every block, and how many of its positions each of the two stores holds.

    Args:
        border: the original context, tokens; a text that is longer is turned by the other frequencies.
        blocks: how many.
        block_size: positions in each.
    """

    def __init__(self, border: int, blocks: int, block_size: int) -> None:
        self.border, self.block_size = border, block_size
        self.ids = np.zeros((blocks, block_size), np.int32)
        self.filled = np.zeros((2, blocks), np.int32)
        self.bytes = 4 * (block_size + 2)

    def cut(self, reading: Reading) -> Iterator[tuple[int, Reading]]:
        """What is to be read into which store; each begins with the first position that the store does not hold.

        A position's state is always that of the text that ends there, however the text was cut into pieces.

        Args:
            reading: new tokens of a sequence, which are noted.
        """
        blocks, offsets = reading.places(reading.start, reading.end)
        self.ids[blocks, offsets] = reading.ids
        for filled in self.filled:
            np.minimum.at(filled, blocks, offsets)
        early = tuple(pair for pair in reading.outputs if pair[1] < self.border)
        late = tuple(pair for pair in reading.outputs if pair[1] >= self.border)
        if early or reading.end <= self.border:
            yield 0, self._completed(0, replace(reading, outputs=early), min(reading.end, self.border))
        if reading.end > self.border:
            yield 1, self._completed(1, replace(reading, outputs=late), reading.end)

    def _completed(self, store: int, reading: Reading, end: int) -> Reading:
        start, size = reading.start, self.block_size
        for index, block in enumerate(reading.table[: -(-start // size)]):
            held = int(self.filled[store, block])
            if held < min(size, start - index * size):
                start = index * size + held
                break
        return replace(reading, ids=self.ids[reading.places(start, end)], start=start)

    def done(self, store: int, reading: Reading) -> None:
        """Note that a store holds what was read."""
        blocks, offsets = reading.places(reading.start, reading.end)
        np.maximum.at(self.filled[store], blocks, offsets + 1)

    def copy(self, source: int, target: int, positions: int) -> None:
        """Copy what is known of the first ``positions`` of a block."""
        self.ids[target, :positions] = self.ids[source, :positions]
        self.filled[:, target] = np.minimum(self.filled[:, source], positions)

    def read(self, block: int) -> bytes:
        """What is known of a block; ``bytes`` of them."""
        numbers: Ints = np.concatenate([self.ids[block], self.filled[:, block]])
        return numbers.astype("<i4").tobytes()

    def write(self, block: int, data: bytes, vocabulary: int) -> None:
        """Restore what ``read`` gave.

        Args:
            block: which.
            data: ``bytes`` of them.
            vocabulary: ids that the model knows.

        Raises:
            UserError: other ids, or more positions than a block has.
        """
        numbers = np.frombuffer(data, "<i4")
        ids, filled = numbers[: self.block_size], numbers[self.block_size :]
        known = ((ids >= 0) & (ids < vocabulary)).all()
        if not known or not ((filled >= 0) & (filled <= self.block_size)).all():
            raise UserError("a kept block holds ids that this model does not know; make the prefix again")
        self.ids[block], self.filled[:, block] = ids, filled
