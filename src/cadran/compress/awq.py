"""How much to scale each channel before rounding: a power of how large it is, the power found by trying.

Source: Lin et al. 2024 (AWQ), equation 5.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cadran.compress.activations import Moments
from cadran.compress.blocks import Kind
from cadran.compress.folds import Fold
from cadran.compress.gptq import output_error
from cadran.compress.rounding import nearest

POWERS = tuple(step / 10 for step in range(11))
"""Tried in turn; 0 leaves everything as it is."""
_LARGEST_RATIO = 1e4  # between the scales of two channels; beyond it norms would lose digits


def best_scale(block: nn.Module, fold: Fold, moments: Moments, kinds: Mapping[str, Kind]) -> Tensor | None:
    """The scale of a fold's channels that leaves the least error in the outputs of its readers.

    Args:
        block: the layer, not rounded.
        fold: of that layer.
        moments: of the readers' inputs.
        kinds: of the readers' blocks, by name; readers that have none are not rounded.

    Returns:
        Shape (channels,), float32; None where scaling brings nothing.
    """
    readers = {name: block.get_submodule(name) for name in fold.readers if kinds.get(name, "Q8_0") != "Q8_0"}
    magnitude = fold.gathered(moments.magnitude)
    if not readers or not moments.count or not float(magnitude.max()) > 0:
        return None
    magnitude = magnitude.clamp(min=float(magnitude.max()) / _LARGEST_RATIO)
    hessian = moments.hessian.float()
    best, least = None, torch.inf
    for power in POWERS:
        scale = magnitude**power
        scale = (scale / (scale.max() * scale.min()).sqrt()).float()
        wide = fold.spread(scale)
        error = 0.0
        for name, linear in readers.items():
            assert isinstance(linear, nn.Linear)
            weight = linear.weight
            rounded = nearest(weight * wide, kinds[name], coarse=True).values() / wide
            error += float(output_error(weight, rounded, hessian).sum())
        if error < least:
            best, least = (scale if power else None), error
    return best
