"""A tensor whose blocks were chosen before it is written, by something that knows better than rounding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadran.model.gguf.quantization import BLOCKS


@dataclass(frozen=True, slots=True)
class Encoded:
    """Blocks of a tensor, row by row.

    A row is a whole number of blocks, so whatever moves rows (interleaved rotary pairs, matrices one under the other,
    stacked experts) moves these bytes in the same way.

    Attributes:
        kind: "Q4_0" and the like.
        rows: the bytes, shape (..., bytes of a row).
    """

    kind: str
    rows: NDArray[np.uint8]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor, row-major."""
        weights, size = BLOCKS[self.kind]
        return (*self.rows.shape[:-1], self.rows.shape[-1] // size * weights)
