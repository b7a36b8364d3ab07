"""Turning queries and keys by their rotary angles, with a backward pass that turns the other way."""

from typing import Any

import torch
from torch import Tensor


class _Rotate(torch.autograd.Function):
    """Four in-place passes over the output; the backward pass turns the other way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        first, second = x.chunk(2, -1)
        turned = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        left, right = turned.chunk(2, -1)
        torch.mul(first, cos, out=left)
        left.addcmul_(second, sin, value=-1.0)
        torch.mul(second, cos, out=right)
        right.addcmul_(first, sin)
        return turned

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _Rotate.forward(_Discard(), gradients[0], cos, -sin), None, None


class _Discard:
    def save_for_backward(self, *tensors: Tensor) -> None:
        """The backward rotation needs nothing afterwards."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn pairs of the last axis by their angles.

    Args:
        x: shape (..., T, heads, D).
        cos: cosines, shape (T, R / 2) or (B, T, R / 2) with R at most D; pair i is (i, i + R / 2), the rest stays.
        sin: sines, same shape.
    """
    turned = 2 * cos.shape[-1]
    if turned < x.shape[-1]:
        return torch.cat((rotate(x[..., :turned], cos, sin), x[..., turned:]), -1)
    cos, sin = cos.unsqueeze(-2).to(x.dtype), sin.unsqueeze(-2).to(x.dtype)
    if not torch.is_grad_enabled():  # Each product rounded before the sum, as `transformers` does it.
        first, second = x.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return _Rotate.apply(x, cos, sin)  # type: ignore[no-untyped-call, no-any-return]
