"""Low-rank maps upon frozen bases, several of one input in one step, with a backward pass of their own.

The base is frozen, so nothing is formed for its gradient; what is kept between the passes is the input and its
products with A, a few columns. A base is a plain map, or anything that offers ``enter``, ``product`` and
``transposed`` (a quantised one), whose own rounding then belongs to the forward and the backward pass alike.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@runtime_checkable
class FrozenMap(Protocol):
    """A linear map without a gradient of its own, in three parts."""

    def enter(self, x: Tensor) -> Any:
        """What the product needs of rows of inputs, shape (N, in); maps of one class share it."""
        ...

    def product(self, entered: Any) -> Tensor:
        """The outputs, shape (N, out), freshly made."""
        ...

    def transposed(self, gradient: Tensor) -> Tensor:
        """The gradient of the inputs, shape (N, in), freshly made, from that of the outputs, shape (N, out)."""
        ...


class Part(NamedTuple):
    """One map of a group: its frozen base and what is added, ``scale * x A^T B^T``."""

    base: nn.Module
    a: Tensor
    b: Tensor
    scale: float


def fits(base: nn.Module) -> bool:
    """Whether a base can be multiplied by here: frozen, and a plain map or a ``FrozenMap``."""
    if type(base) is nn.Linear:
        return not (base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad))
    return isinstance(base, FrozenMap)


def low_rank_products(x: Tensor, parts: Sequence[Part]) -> tuple[Tensor, ...]:
    """The outputs of several adapted maps of one input.

    Args:
        x: shape (..., in).
        parts: maps whose bases ``fits`` accepts and whose factors have the type of ``x``.

    Returns:
        One tensor of shape (..., out) a part.
    """
    factors = [tensor for part in parts for tensor in (part.a, part.b)]
    frozen = [(part.base, part.scale) for part in parts]
    outputs: tuple[Tensor, ...] = _LowRankProducts.apply(  # type: ignore[no-untyped-call]
        x.reshape(-1, x.shape[-1]), frozen, *factors
    )
    return tuple(output.view(*x.shape[:-1], output.shape[-1]) for output in outputs)


class _LowRankProducts(torch.autograd.Function):
    """y_i = x W_i^T + s_i (x A_i^T) B_i^T for each i."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: list[tuple[nn.Module, float]], *factors: Tensor) -> tuple[Tensor, ...]:
        wide = factors[0] if len(frozen) == 1 else torch.cat(factors[::2])  # (R, in): one pass over x for all
        low = x @ wide.t()  # (N, R)
        entered: dict[type, Any] = {}
        outputs, first = [], 0
        for (base, scale), a, b in zip(frozen, factors[::2], factors[1::2], strict=True):
            inner = low[:, first : first + len(a)]
            first += len(a)
            outputs.append(_product(base, x, entered).addmm_(inner, b.t(), alpha=scale))
        ctx.save_for_backward(x, low, wide, *factors[1::2])
        ctx.frozen, ctx.ranks = frozen, [len(a) for a in factors[::2]]
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, low, wide, *seconds = ctx.saved_tensors
        wanted = ctx.needs_input_grad[0]
        grad_x: Tensor | None = None
        grad_low = torch.empty_like(low)
        grad_seconds, first = [], 0
        for (base, scale), b, rank, gradient in zip(ctx.frozen, seconds, ctx.ranks, gradients, strict=True):
            gradient, columns = gradient.contiguous(), slice(first, first + rank)
            first += rank
            grad_low[:, columns] = (gradient @ b).mul_(scale)
            grad_seconds.append((gradient.t() @ low[:, columns]).mul_(scale))
            if wanted:
                grad_x = _add_transposed(grad_x, base, gradient)
        if grad_x is not None:
            grad_x.addmm_(grad_low, wide)
        grad_firsts = (grad_low.t() @ x).split(ctx.ranks)
        return (grad_x, None, *(g for pair in zip(grad_firsts, grad_seconds, strict=True) for g in pair))


def _product(base: nn.Module, x: Tensor, entered: dict[type, Any]) -> Tensor:
    if type(base) is nn.Linear:
        return F.linear(x, base.weight.to(x.dtype), None if base.bias is None else base.bias.to(x.dtype))
    assert isinstance(base, FrozenMap)
    if type(base) not in entered:
        entered[type(base)] = base.enter(x)
    return base.product(entered[type(base)])


def _add_transposed(total: Tensor | None, base: nn.Module, gradient: Tensor) -> Tensor:
    if type(base) is nn.Linear:
        weight = base.weight.to(gradient.dtype)
        return gradient @ weight if total is None else total.addmm_(gradient, weight)
    assert isinstance(base, FrozenMap)
    own = base.transposed(gradient)
    return own if total is None else total.add_(own)
