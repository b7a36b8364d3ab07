"""Attention over packed rows: causal, and never across the border between two documents.

On a CPU two plain batched products beat the fused kernel at the short contexts small models train with
(LAB.md, 2026-11-22: 1.15x in fp32, 2x in bf16, forward and backward), because the fused kernel neither skips
masked blocks nor reaches the speed of a matrix product. Elsewhere the fused kernel runs.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_PLAIN_CONTEXT = 512
"""Above this many keys the scores no longer stay in cache and the fused kernel wins (tokens)."""


def document_bias(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive mask of a packed batch.

    Args:
        segments: which document each position belongs to, integers, shape (B, T).
        dtype: floating type of the result.

    Returns:
        Shape (B, 1, T, T): 0 where the query may see the key (same document, not later), -inf elsewhere.
    """
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    past = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    blocked = ~(same & past)
    return torch.zeros(blocked.shape, dtype=dtype, device=segments.device).masked_fill_(blocked, -torch.inf)[:, None]


def causal_bias(
    length: int, cached: int, dtype: torch.dtype, device: torch.device, padding: Tensor | None = None
) -> Tensor:
    """Additive mask of rows that are one document each, read after ``cached`` positions.

    Args:
        length: new positions, T.
        cached: positions already kept.
        dtype: floating type of the result.
        device: where it is wanted.
        padding: number of padding tokens at the left of each row, shape (B,), or None.

    Returns:
        Shape (T, cached + T), or (B, 1, T, cached + T) with padding: 0 where the query may see the key, else -inf.
        A padding position sees itself, so that no row is without a key.
    """
    query = torch.arange(cached, cached + length, device=device)[:, None]
    key = torch.arange(cached + length, device=device)[None, :]
    blocked = key > query
    if padding is not None:
        blocked = blocked | ((key < padding[:, None, None, None]) & (key != query))
    return torch.zeros(blocked.shape, dtype=dtype, device=device).masked_fill_(blocked, -torch.inf)


def within_window(bias: Tensor | None, length: int, cached: int, window: int, like: Tensor) -> Tensor | None:
    """The mask ``bias`` (None: everything is visible) without the keys ``window`` or more positions back.

    Args:
        bias: additive mask, broadcastable to (B, H, T, cached + T), or None.
        length: new positions, T.
        cached: positions already kept.
        window: positions that a query sees, itself included.
        like: tensor of the wanted type and place.
    """
    if cached + length <= window:
        return bias
    query = torch.arange(cached, cached + length, device=like.device)[:, None]
    key = torch.arange(cached + length, device=like.device)[None, :]
    far = key <= query - window
    base = torch.zeros(far.shape, dtype=like.dtype, device=like.device) if bias is None else bias
    return base.masked_fill(far, -torch.inf)


class _PlainAttention(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d) + bias) V by batched products; the probabilities are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, scale: float) -> Tensor:
        batch, heads, length, width = q.shape
        flat = (batch * heads, length, width)
        q, k, v = q.reshape(flat), k.reshape(flat), v.reshape(flat)
        bias = bias.expand(batch, heads, length, length).reshape(batch * heads, length, length)
        probabilities = torch.softmax(torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale), -1)
        ctx.save_for_backward(q, k, v, probabilities)
        ctx.shape, ctx.scale = (batch, heads, length, width), scale
        return torch.bmm(probabilities, v).view(batch, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, probabilities = ctx.saved_tensors
        grad = gradients[0].reshape(q.shape)
        grad_v = torch.bmm(probabilities.transpose(1, 2), grad)
        grad_p = torch.bmm(grad, v.transpose(1, 2))
        grad_s = torch._softmax_backward_data(grad_p, probabilities, -1, probabilities.dtype)
        grad_q = torch.bmm(grad_s, k).mul_(ctx.scale)
        grad_k = torch.bmm(grad_s.transpose(1, 2), q).mul_(ctx.scale)
        return grad_q.view(ctx.shape), grad_k.view(ctx.shape), grad_v.view(ctx.shape), None, None


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None = None, cap: float | None = None
) -> Tensor:
    """Attention of every query over the keys its bias lets through.

    Args:
        q: queries, shape (B, H, Tq, D).
        k: keys, shape (B, KV, Tk, D) with H a multiple of KV (grouped-query attention).
        v: values, shape (B, KV, Tk, E); E is D in all but latent attention.
        bias: additive mask, broadcastable to (B, H, Tq, Tk); None lets every query see every key.
        scale: factor on the scores; None means 1 / sqrt(D).
        cap: c of c * tanh(scores / c), or None.

    Returns:
        Shape (B, H, Tq, E).

    Source: Vaswani et al. 2017, eq. 1; grouped queries: Ainslie et al. 2023; soft cap: Gemma 2, 2024.
    """
    if k.shape[1] != q.shape[1]:
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
        v = v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)
    scale = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    if cap is not None:
        scores = torch.tanh(q @ k.transpose(2, 3) * scale / cap) * cap
        return torch.softmax(scores if bias is None else scores + bias, -1) @ v
    plain = q.device.type == "cpu" and q.requires_grad and q.shape[2] == k.shape[2] <= LONGEST_PLAIN_CONTEXT
    if plain and bias is not None and v.shape == q.shape:
        return _PlainAttention.apply(q, k, v, bias, scale)  # type: ignore[no-untyped-call, no-any-return]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
