"""The one loss of Cadran: sum over valid targets divided by their global count, logits never held whole.

The output head and the cross-entropy run together over pieces of positions. Each piece's gradient is formed while
its logits are at hand, so the backward pass only scales what is there: no second product, no (B, T, V) tensor.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""Target of a position that has nothing to predict (padding, a prompt under SFT)."""

PIECE = 1024
"""Most positions whose logits exist at one time; 1024 x 4096 floats are 16 MB (the plateau in LAB.md is flat)."""

PIECE_LOGITS = 1 << 23
"""Most logits that exist at one time, 32 MB of float32, where the vocabulary is large."""


FEWEST = 128
"""Positions in a piece all the same: below this the product slows down."""


def piece_of(vocabulary: int) -> int:
    """Positions whose logits are formed at one time."""
    return min(PIECE, max(FEWEST, PIECE_LOGITS // vocabulary))


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weight: float, cap: float | None) -> Tensor:
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(head.dtype, torch.float32)
        grad_head = torch.zeros_like(head, dtype=wide) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.promote_types(hidden.dtype, torch.float32), device=hidden.device)
        size = piece_of(head.shape[0])
        for start in range(0, hidden.shape[0], size):
            piece, index = hidden[start : start + size], targets[start : start + size, None]
            logits = (piece @ head.t()).to(total.dtype)  # (P, V)
            slope = None
            if cap is not None:
                logits = logits.div_(cap).tanh_()
                slope = 1 - logits.square()
                logits = logits.mul_(cap)
            top = logits.amax(-1, keepdim=True)
            chosen = logits.sub_(top).gather(-1, index)
            exponentials = logits.exp_()
            sums = exponentials.sum(-1, keepdim=True)
            nll = sums.log() - chosen
            total += nll.sum()
            if grad_hidden is not None or grad_head is not None:
                gradient = exponentials.div_(sums)
                gradient.scatter_add_(-1, index, torch.full_like(nll, -1.0))
                gradient.mul_(weight)
                if slope is not None:
                    gradient.mul_(slope)
                gradient = gradient.to(hidden.dtype)
                if grad_hidden is not None:
                    torch.mm(gradient, head, out=grad_hidden[start : start + size])
                if grad_head is not None:
                    grad_head += gradient.t() @ piece
        ctx.save_for_backward(grad_hidden, None if grad_head is None else grad_head.to(head.dtype))
        return total * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        scaled = (None if kept is None else kept * gradients[0].to(kept.dtype) for kept in ctx.saved_tensors)
        return next(scaled), next(scaled), None, None, None


def head_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, count: int, cap: float | None = None) -> Tensor:
    """Cross-entropy of the next token: sum over valid positions of -log p(target), divided by ``count``.

    Args:
        hidden: final states, shape (N, C).
        head: output matrix, shape (V, C).
        targets: ids to predict, shape (N,); ``IGNORED`` where there is none.
        count: valid targets of the *whole* optimizer step, so that accumulated pieces add up to the loss of one
            batch; a count of 0 is taken as 1 and gives a loss of 0.
        cap: c of c * tanh(logits / c) (Gemma 2), or None.

    Returns:
        Scalar, nats per target when ``targets`` holds all ``count`` of them.
    """
    counted = targets != IGNORED
    if not counted.all():  # in SFT most positions are of prompts, and their logits would be for nothing
        hidden, targets = hidden[counted], targets[counted]
    return _HeadCrossEntropy.apply(hidden, head, targets, 1.0 / max(count, 1), cap)  # type: ignore[no-untyped-call, no-any-return]
