"""Normalisation of the last axis: RMSNorm (Zhang & Sennrich 2019) and LayerNorm (Ba et al. 2016)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadran.model.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * (weight + offset) over the last axis.

    Args:
        width: of the last axis.
        epsilon: added to the mean square.
        offset: added to the weight; with 1 (Gemma) the product is formed in float32.
    """

    def __init__(self, width: int, epsilon: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon, self.offset = epsilon, offset

    def forward(self, x: Tensor) -> Tensor:
        if self.offset:
            wide = x.float() if x.dtype != torch.float64 else x
            normalised = F.rms_norm(wide, self.weight.shape, None, self.epsilon)
            return (normalised * (self.offset + self.weight.to(wide.dtype))).to(x.dtype)
        # The weight follows the input's type: mixed types miss the fused kernel and cost several passes.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)


class LayerNorm(nn.Module):
    """(x - mean) / deviation * weight + bias over the last axis.

    Args:
        width: of the last axis.
        epsilon: added to the variance.
    """

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.epsilon)


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    """The norm that a model uses, for a given width."""
    if config.norm == "layer":
        return LayerNorm(width, config.norm_epsilon)
    return RMSNorm(width, config.norm_epsilon, config.norm_offset)
