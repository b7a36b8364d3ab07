"""Linear maps with 8-bit weights and one scale for each output, for the torch runner.

The activations keep their type. Rounding to the nearest of 255 steps of each row is all that is lost
(Dettmers et al. 2022, section 2, without the outliers' path).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 8
"""Up to so many tokens the fused product is used: with more it is slower than unpacking the matrix once (one core,
576 x 1536, bfloat16: 58 us against 208 for one token, 390 against 336 for sixteen)."""


class Int8Linear(nn.Module):
    """x W^T + b with W = weight * scale.

    Args:
        layer: the map to replace; its bias is kept as it is.

    Attributes:
        weight: int8, shape (out, in).
        scale: shape (out,), float32.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        weight = layer.weight.detach().float()
        scale = (weight.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)  # a row of zeros stays one
        self.register_buffer("weight", (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., in) to (..., out), in the type of ``x``."""
        flat = x.reshape(-1, self.in_features)
        scale = self.scale.to(x.dtype)
        if self._fused(flat):
            y = torch._weight_int8pack_mm(flat, self.weight, scale)
        else:
            y = F.linear(flat, self.weight.to(x.dtype)) * scale
        if self.bias is not None:
            y = y + self.bias.to(x.dtype)
        return y.view(*x.shape[:-1], self.out_features)

    def _fused(self, flat: Tensor) -> bool:
        """Whether torch's fused product may be used.

        It reads 32 numbers at a time, beyond the end of rows of another length. In float32 it is not vectorised.
        """
        fits = flat.dtype == torch.bfloat16 and self.in_features % 32 == 0 and flat.is_contiguous()
        return fits and flat.device.type == "cpu" and 0 < flat.shape[0] <= FEW_ROWS


def quantise_int8(model: nn.Module) -> None:
    """Replace every linear map of a model by one with 8-bit weights, in place.

    Embeddings, norms and routers keep their type; so does the embedding of a tied head, whose head becomes 8-bit.

    Args:
        model: in evaluation mode; its float weights are given back as they are replaced.
    """
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Int8Linear(child))
