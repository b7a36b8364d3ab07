"""What the scheduler asks of a runner: one forward pass over pieces of several sequences.

A piece of a prompt, one decoded token and a few guesses to be verified are the same thing here: consecutive tokens of
one sequence, whose keys and values go into the blocks of its table. The blocks belong to whoever calls.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cadran.engine.sampler import Sampler

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens to read in one pass.

    Attributes:
        ids: shape (N,), int32; the tokens of all sequences, one after the other.
        positions: shape (N,), int32; place of each token in its sequence, consecutive within a sequence.
        starts: shape (S + 1,), int32; the tokens of sequence s are ``starts[s]`` to ``starts[s + 1]``.
        tables: shape (S, W), int32; position p of sequence s is kept in block ``tables[s, p // block_size]``.
            Rows are filled up with 0. The blocks must hold every earlier position of the sequence.
        outputs: shape (M,), int32, ascending; which of the N tokens the logits are wanted of.
        adapters: shape (S,), int32; the adapter of each sequence by the number that the runner gave it, 0 for none;
            None where no sequence has one.
    """

    ids: Ints
    positions: Ints
    starts: Ints
    tables: Ints
    outputs: Ints
    adapters: Ints | None = None


class Runner(Protocol):
    """A model ready to run.

    Attributes:
        name: ``native`` or ``torch``.
        context: most positions of a sequence.
        vocabulary: width of the logits.
        width: of the hidden states.
        block_size: positions in a block.
        blocks: how many blocks there are.
    """

    name: str
    context: int
    vocabulary: int
    width: int
    block_size: int
    blocks: int

    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        """Read the tokens, keep their keys and values, and return logits of shape (M, vocabulary).

        What a token's logits are never depends, to the last bit in the native core, on what else is in the batch or on
        how its prompt was cut into pieces.
        """
        ...

    def hidden(self, batch: Batch) -> npt.NDArray[np.float32]:
        """As ``step``, but returns the hidden states after the final norm, shape (M, width)."""
        ...

    def burst(self, batch: Batch, samplers: list[Sampler], stops: list[tuple[int, ...]], steps: int) -> Ints:
        """Decode several tokens of each sequence without coming back, where the runner can; else one.

        Args:
            batch: one token of each sequence, ``outputs`` all of them; tables with room for ``steps`` more positions.
            samplers: one of each sequence; they have accepted what is returned, stop ids included.
            stops: ids after which a sequence is not continued.
            steps: most tokens of each.

        Returns:
            Shape (taken, S) with 1 <= taken <= steps; -1 after a sequence ended.
        """
        ...

    def copy(self, source: int, target: int, positions: int) -> None:
        """Copy the first ``positions`` of a block into another one."""
        ...

    def read_block(self, block: int) -> bytes:
        """Keys and values of a block, all layers."""
        ...

    def write_block(self, block: int, data: bytes) -> None:
        """Restore what ``read_block`` gave.

        Raises:
            UserError: the length is another's.
        """
        ...

    def close(self) -> None:
        """Stop its threads and give the memory back."""
        ...
