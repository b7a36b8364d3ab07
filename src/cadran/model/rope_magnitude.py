"""How much stretched rotary positions sharpen attention.

Plain arithmetic, so that reading a configuration needs no torch.
"""

import math

from cadran.model.config import Rope


def table_magnitude(rope: Rope, context: int) -> float:
    """Factor on cosines and sines, which sharpens attention over a stretched context; 1 for most kinds."""
    if rope.kind not in ("yarn", "longrope"):
        return 1.0
    if rope.magnitude is not None:
        return rope.magnitude
    if rope.kind == "yarn":
        if rope.mscale and rope.mscale_all:
            return yarn_magnitude(rope.factor, rope.mscale) / yarn_magnitude(rope.factor, rope.mscale_all)
        return yarn_magnitude(rope.factor)
    if rope.factor <= 1:
        return 1.0
    return math.sqrt(1 + math.log(rope.factor) / math.log(rope.original or context))


def yarn_magnitude(factor: float, strength: float = 1.0) -> float:
    """0.1 strength ln(factor) + 1, never below 1 (Peng et al. 2023, eq. 22)."""
    return 1.0 if factor <= 1 else 0.1 * strength * math.log(factor) + 1.0
