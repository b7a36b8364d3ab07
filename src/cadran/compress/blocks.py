"""Weights as levels and scales, group by group, and the bytes that a GGUF file has for them.

A group is 32 weights of one row. Q4_0: weight = scale * level, level -8 to 7. Q4_1: weight = scale * level + minimum,
level 0 to 15. Q8_0: weight = scale * level, level -127 to 127. Scales and minima are float16.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cadran.model.gguf import legacy_quants
from cadran.model.gguf.encoded import Encoded

GROUP = 32
"""Weights that share a scale."""
Kind = Literal["Q4_0", "Q4_1", "Q8_0"]
LEVELS: dict[Kind, tuple[int, int]] = {"Q4_0": (-8, 7), "Q4_1": (0, 15), "Q8_0": (-127, 127)}
"""Least and greatest level."""


@dataclass(frozen=True, slots=True)
class Grid:
    """The values that the weights of each of n groups may take: ``minimum + scale * level``.

    Attributes:
        kind: of the blocks.
        scale: shape (n, 1), float32 that float16 can say.
        minimum: shape (n, 1), likewise; zero but for Q4_1.
    """

    kind: Kind
    scale: Tensor
    minimum: Tensor

    def levels(self, weights: Tensor) -> Tensor:
        """The nearest levels of weights of shape (n, any), as floats."""
        # A scale of zero makes every level the same value; its inverse must not make a NaN of it.
        inverse = torch.where(self.scale == 0, 0.0, 1 / self.scale)
        return ((weights - self.minimum) * inverse).round_().clamp_(*LEVELS[self.kind])

    def values(self, levels: Tensor) -> Tensor:
        """The weights that levels stand for, in the order of float32 operations of the file's readers."""
        product = levels * self.scale
        return product + self.minimum if self.kind == "Q4_1" else product


@dataclass(frozen=True, slots=True)
class Quantised:
    """A matrix of shape (rows, columns), columns a multiple of 32.

    Attributes:
        kind: of the blocks.
        levels: int8, shape (rows, columns).
        scale: float32 that float16 can say, shape (rows, columns / 32).
        minimum: likewise; zero but for Q4_1.
    """

    kind: Kind
    levels: Tensor
    scale: Tensor
    minimum: Tensor

    @classmethod
    def of(cls, rows: int, levels: Tensor, grid: Grid) -> "Quantised":
        """From groups in order of rows: levels of shape (n, 32) and their grid."""
        return cls(
            grid.kind, levels.to(torch.int8).view(rows, -1), grid.scale.view(rows, -1), grid.minimum.view(rows, -1)
        )

    def rows(self, rows: slice) -> "Quantised":
        """Some of the rows."""
        return Quantised(self.kind, self.levels[rows], self.scale[rows], self.minimum[rows])

    @property
    def grid(self) -> Grid:
        """Of all groups."""
        return Grid(self.kind, self.scale.reshape(-1, 1), self.minimum.reshape(-1, 1))

    def values(self) -> Tensor:
        """The weights, float32, exactly as a reader of the file has them."""
        return self.grid.values(self.levels.reshape(-1, GROUP).float()).view(self.levels.shape)

    def encoded(self) -> Encoded:
        """The bytes of the file."""
        groups = self.levels.reshape(-1, GROUP).numpy()
        scale = self.scale.reshape(-1).numpy().astype("<f2")
        if self.kind == "Q8_0":
            blocks = np.empty(len(groups), legacy_quants.Q8_0)
            blocks["levels"] = groups
        else:
            blocks = np.empty(len(groups), legacy_quants.Q4_0 if self.kind == "Q4_0" else legacy_quants.Q4_1)
            stored = (groups - LEVELS[self.kind][0]).astype(np.uint8)
            blocks["pairs"] = stored[:, :16] | (stored[:, 16:] << 4)
            if self.kind == "Q4_1":
                blocks["minimum"] = self.minimum.reshape(-1).numpy().astype("<f2")
        blocks["scale"] = scale
        rows = np.frombuffer(blocks.tobytes(), np.uint8).reshape(len(self.levels), -1)
        return Encoded(self.kind, rows.copy())
