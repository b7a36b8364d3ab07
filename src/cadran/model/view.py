"""What a layer sees of the positions: their angles, and which of them it may attend to."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class View:
    """Angles and mask of one kind of layer.

    Attributes:
        rotary: cosines and sines, each (T, D / 2) or (B, T, D / 2); None with learnt positions.
        bias: additive attention mask, broadcastable to (B, H, T, T + cached), or None.
    """

    rotary: tuple[Tensor, Tensor] | None
    bias: Tensor | None
