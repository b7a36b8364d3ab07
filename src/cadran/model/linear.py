"""Linear maps applied in the type of their input, and several of them to the same input in one product."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Grouping(nn.Module):
    """A map that can run faster together with others of its kind on the same input."""

    @staticmethod
    def together(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...] | None:
        """The outputs of all layers, or None where each must run alone."""
        raise NotImplementedError


def apply(x: Tensor, layer: nn.Module) -> Tensor:
    """One linear map; its weights follow the type of ``x``. Anything but a plain map (an adapter) is simply called."""
    if type(layer) is not nn.Linear:
        return layer(x)  # type: ignore[no-any-return]
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


def joins(*layers: nn.Module) -> bool:
    """Whether one wide product may stand for these maps: in training, and when each is no more than its weight."""
    return torch.is_grad_enabled() and all(type(layer) is nn.Linear for layer in layers)


def joined(x: Tensor, *layers: nn.Linear) -> Tensor:
    """The outputs of several linear maps side by side, by one product.

    The concatenation copies weights only, which are small beside (B, T, C) in training.
    """
    weight = torch.cat([layer.weight for layer in layers]).to(x.dtype)
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers]).to(x.dtype)
    return F.linear(x, weight, bias)


def project(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """The outputs of several linear maps of the same input.

    In inference each runs alone, because the copy would cost as much as the product of one position, and in the order
    of operations of ``transformers``: the logits are then the same bits, not merely close.
    """
    if not joins(*layers):
        first = layers[0]
        grouped = first.together(x, layers) if isinstance(first, Grouping) else None
        return grouped or tuple(apply(x, layer) for layer in layers)
    return torch.split(joined(x, *layers), [layer.out_features for layer in layers], -1)
