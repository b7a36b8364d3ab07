"""Log-probabilities of given tokens, with gradients, without ever holding the logits of all positions.

The logits of a piece are formed, used and dropped. How a log-probability changes with its state does not depend on what
becomes of it, so while the logits are at hand that is formed too, and the backward pass only scales it. Where the head
is trained as well, the backward pass forms the logits again: one product more, and (N, V) numbers less.
"""

from typing import Any

import torch
from torch import Tensor

from cadran.align.branches import Branches, answer_states
from cadran.model.transformer import Transformer
from cadran.train.loss import piece_of


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: Tensor, targets: Tensor, temperature: float, cap: float | None
    ) -> tuple[Tensor, Tensor]:
        kind = torch.promote_types(states.dtype, torch.float32)
        logprobs, entropies, sums = (torch.empty(len(states), dtype=kind, device=states.device) for _ in range(3))
        alone = ctx.needs_input_grad[0] and not ctx.needs_input_grad[1]
        slopes = torch.empty_like(states) if alone else None
        size = piece_of(head.shape[0])
        for start in range(0, len(states), size):
            piece = slice(start, start + size)
            logits, slope = _logits(states[piece], head, temperature, cap)
            top = logits.amax(-1, keepdim=True)
            exponentials = logits.sub_(top).exp()
            total = exponentials.sum(-1)
            target = targets[piece, None]
            logprobs[piece] = logits.gather(-1, target)[:, 0] - total.log()
            entropies[piece] = total.log() - _weighted(exponentials, logits) / total
            sums[piece] = total.log() + top[:, 0]
            if slopes is not None:
                gradient = exponentials.mul_(-1 / total[:, None])
                gradient.scatter_add_(-1, target, torch.ones_like(gradient[:, :1]))
                if temperature != 1:
                    gradient.mul_(1 / temperature)
                if slope is not None:
                    gradient.mul_(slope)
                torch.mm(gradient.to(states.dtype), head, out=slopes[piece])
        if slopes is None:
            ctx.save_for_backward(states, head, targets, sums)
        else:
            ctx.save_for_backward(slopes)
        ctx.temperature, ctx.cap = temperature, cap
        ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        if len(ctx.saved_tensors) == 1:
            slopes = ctx.saved_tensors[0]
            return slopes * gradients[0][:, None].to(slopes.dtype), None, None, None, None
        states, head, targets, sums = ctx.saved_tensors
        grad_states = torch.empty_like(states) if ctx.needs_input_grad[0] else None
        wide = torch.promote_types(head.dtype, torch.float32)
        grad_head = torch.zeros_like(head, dtype=wide) if ctx.needs_input_grad[1] else None
        size = piece_of(head.shape[0])
        for start in range(0, len(states), size):
            piece = slice(start, start + size)
            logits, slope = _logits(states[piece], head, ctx.temperature, ctx.cap)
            given = gradients[0][piece, None]
            gradient = logits.sub_(sums[piece, None]).exp_().mul_(-given)
            gradient.scatter_add_(-1, targets[piece, None], given)
            gradient.mul_(1 / ctx.temperature)
            if slope is not None:
                gradient.mul_(slope)
            gradient = gradient.to(states.dtype)
            if grad_states is not None:
                torch.mm(gradient, head, out=grad_states[piece])
            if grad_head is not None:
                grad_head += gradient.t() @ states[piece]
        return grad_states, None if grad_head is None else grad_head.to(head.dtype), None, None, None


def _logits(states: Tensor, head: Tensor, temperature: float, cap: float | None) -> tuple[Tensor, Tensor | None]:
    """Logits over the temperature, shape (P, V), and the slope of the cap."""
    logits = (states @ head.t()).to(torch.promote_types(states.dtype, torch.float32))
    slope = None
    if cap is not None:
        logits = logits.div_(cap).tanh_()
        slope = 1 - logits.square()
        logits = logits.mul_(cap)
    return (logits if temperature == 1 else logits.div_(temperature)), slope


def _weighted(weights: Tensor, logits: Tensor) -> Tensor:
    """Sums over the vocabulary of weight * logit, shape (P,); what has no weight adds nothing, whatever its logit."""
    result: Tensor = torch.linalg.vecdot(weights, logits)
    if bool(result.isfinite().all()):
        return result
    return torch.where(weights > 0, weights * logits, 0.0).sum(-1)


def token_logprobs(
    states: Tensor, head: Tensor, targets: Tensor, *, temperature: float = 1.0, cap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of tokens, and the entropies of what they were drawn from.

    Args:
        states: final states that predict the tokens, shape (N, C).
        head: output matrix, shape (V, C), of the states' type.
        targets: ids, shape (N,).
        temperature: at which the tokens are drawn; the logits are divided by it.
        cap: c of c * tanh(logits / c) (Gemma 2), or None.

    Returns:
        Log-probabilities in nats, shape (N,), with gradients to states and head; entropies in nats, shape (N,), without
        any.
    """
    return _TokenLogprobs.apply(states, head, targets, temperature, cap)  # type: ignore[no-untyped-call, no-any-return]


def model_logprobs(
    model: Transformer, batch: Branches, *, dtype: torch.dtype | None = None, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of all answer tokens of a batch, and entropies, both of shape (N,); see ``token_logprobs``."""
    states = answer_states(model, batch, dtype)
    head = model.lm_head.weight.to(states.dtype)
    return token_logprobs(states, head, batch.targets, temperature=temperature, cap=model.config.logit_cap)
