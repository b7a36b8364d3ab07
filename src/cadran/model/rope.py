"""Rotary positions (Su et al. 2021) and the five ways in which released models stretch them.

Angles are formed in float32 in the order of operations of ``transformers``, so that the tables are its bits.
"""

import math

import torch
from torch import Tensor

from cadran.model.config import Rope
from cadran.model.rope_magnitude import table_magnitude


def rotary_tables(positions: Tensor, width: int, rope: Rope, context: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles.

    Args:
        positions: integers, shape (T,) or (B, T).
        width: of a head, or of its part that is turned before ``rope.share`` is applied.
        rope: base and stretching.
        context: the model's longest sequence, tokens.

    Returns:
        Two float32 tensors of shape (*positions.shape, turned width / 2).
    """
    longest = int(positions.max()) + 1 if rope.kind in ("dynamic", "longrope") and positions.numel() else 0
    frequencies = inverse_frequencies(int(width * rope.share), rope, context, longest).to(positions.device)
    angles = positions[..., None].float() * frequencies
    magnitude = table_magnitude(rope, context)
    return angles.cos() * magnitude, angles.sin() * magnitude


def inverse_frequencies(width: int, rope: Rope, context: int, longest: int = 0) -> Tensor:
    """Radians per position of each pair.

    Args:
        width: numbers that are turned, even.
        rope: base and stretching.
        context: the model's longest sequence, tokens.
        longest: length of the sequence that is read (``dynamic`` and ``longrope`` depend on it).

    Returns:
        float32, shape (width / 2,).
    """
    exponent = torch.arange(0, width, 2, dtype=torch.float32) / width
    original = rope.original or context
    base_frequencies: Tensor = 1.0 / rope.base**exponent
    match rope.kind:
        case "linear":
            return base_frequencies / rope.factor
        case "dynamic":
            stretch = rope.factor * max(longest, context) / context - (rope.factor - 1)
            slowed: Tensor = 1.0 / (rope.base * stretch ** (width / (width - 2))) ** exponent
            return slowed
        case "llama3":
            return _blended_by_wavelength(base_frequencies, rope, original)
        case "yarn":
            return _blended_by_rotations(rope.base**exponent, width, rope, original)
        case "longrope":
            divisors = rope.long if longest > original else rope.short
            return 1.0 / (torch.tensor(divisors, dtype=torch.float32) * rope.base**exponent)
        case _:
            return base_frequencies


def _blended_by_wavelength(frequencies: Tensor, rope: Rope, original: int) -> Tensor:
    """Llama 3.1: long waves are slowed by the factor, short ones kept, those between blended."""
    wavelength = 2 * math.pi / frequencies
    slowed = torch.where(wavelength > original / rope.low, frequencies / rope.factor, frequencies)
    share = (original / wavelength - rope.low) / (rope.high - rope.low)
    blended = (1 - share) * slowed / rope.factor + share * slowed
    between = ~(wavelength < original / rope.high) * ~(wavelength > original / rope.low)
    return torch.where(between, blended, slowed)


def _blended_by_rotations(periods: Tensor, width: int, rope: Rope, original: int) -> Tensor:
    """YaRN: pairs that turn often within the original context are kept, rare ones slowed, a ramp between."""

    def pair_of(rotations: float) -> float:
        return width * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(rope.base))

    low, high = pair_of(rope.fast), pair_of(rope.slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001  # a ramp of width nought would divide by it
    kept = 1 - torch.clamp((torch.arange(width // 2, dtype=torch.float32) - low) / (high - low), 0, 1)
    return 1.0 / (rope.factor * periods) * (1 - kept) + 1.0 / periods * kept
