"""The decoder-only Transformer of Cadran, in plain PyTorch.

Parameter names are those of ``transformers``' Qwen3, so a state dict is a checkpoint. The forward pass returns
hidden states; the output head is applied by whoever needs logits (the loss does it in pieces, the engine for the
last position only), so that a (B, T, vocabulary) tensor exists only where somebody asks for it.

Axes: B batch, T positions, C width, H query heads, K key/value heads, D head width, V vocabulary.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadran.model.attention import attend
from cadran.model.cache import KVCache
from cadran.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Pass:
    """What every layer of one forward pass shares.

    Attributes:
        rotary: cosines and sines of the positions, each (T, D / 2).
        bias: additive attention mask, broadcastable to (B, H, T, T + cached), or None.
        cache: earlier keys and values, or None.
        dtype: of the matrix products; the residual stream keeps the weights' own type.
    """

    rotary: tuple[Tensor, Tensor]
    bias: Tensor | None
    cache: KVCache | None
    dtype: torch.dtype


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # The weight follows the input's type: mixed types miss the fused kernel and cost several passes.
        normalised: Tensor = F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.epsilon)
        return normalised


def rotary_tables(positions: Tensor, head_width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles (Su et al. 2021), each of shape (len(positions), D / 2), float32."""
    exponent = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    angles = positions.float()[:, None] * (1.0 / base**exponent)
    return angles.cos(), angles.sin()


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
    """Turn the pairs (i, i + D/2) of the last axis by their angles; x is (..., T, heads, D), cos and sin (T, D/2)."""
    if not torch.is_grad_enabled():  # Each product rounded before the sum, as `transformers` does it.
        first, second = x.chunk(2, -1)
        cos, sin = cos[:, None].to(x.dtype), sin[:, None].to(x.dtype)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
    return _Rotate.apply(x, cos[:, None].to(x.dtype), sin[:, None].to(x.dtype))  # type: ignore[no-untyped-call, no-any-return]


def project(x: Tensor, *layers: nn.Linear) -> tuple[Tensor, ...]:
    """Apply several linear maps to the same input.

    In training one wide product replaces them: the concatenation copies weights only, which are small beside
    (B, T, C). In inference that copy would cost as much as the product for one position, so each runs alone, in the
    order of operations of ``transformers``: the logits are then the same bits, not merely close.
    """
    if not torch.is_grad_enabled():
        return tuple(F.linear(x, layer.weight.to(x.dtype)) for layer in layers)
    joined = torch.cat([layer.weight for layer in layers]).to(x.dtype)
    return torch.split(F.linear(x, joined), [layer.out_features for layer in layers], -1)


class Attention(nn.Module):
    """Grouped-query attention with normalised, rotated queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = nn.Linear(config.width, queries, bias=False)
        self.k_proj = nn.Linear(config.width, keys, bias=False)
        self.v_proj = nn.Linear(config.width, keys, bias=False)
        self.o_proj = nn.Linear(queries, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_width, config.norm_epsilon)
        self.k_norm = RMSNorm(config.head_width, config.norm_epsilon)

    def forward(self, x: Tensor, shared: Pass, layer: int) -> Tensor:
        batch, length, _ = x.shape
        heads, kv_heads, width = self.config.heads, self.config.kv_heads, self.config.head_width
        q, k, v = project(x, self.q_proj, self.k_proj, self.v_proj)
        q = rotate(self.q_norm(q.reshape(batch, length, heads, width)), *shared.rotary).transpose(1, 2)  # (B, H, T, D)
        k = rotate(self.k_norm(k.reshape(batch, length, kv_heads, width)), *shared.rotary).transpose(
            1, 2
        )  # (B, K, T, D)
        v = v.reshape(batch, length, kv_heads, width).transpose(1, 2)  # (B, K, T, D)
        if shared.cache is not None:
            k, v = shared.cache.append(layer, k, v)
        y = attend(q, k, v, shared.bias)  # (B, H, T, D)
        return F.linear(y.transpose(1, 2).reshape(batch, length, heads * width), self.o_proj.weight.to(x.dtype))


class _SwiGLU(torch.autograd.Function):
    """silu(gate) * up of a joined (..., 2 F) tensor; its gradient is written in place instead of concatenated."""

    @staticmethod
    def forward(ctx: Any, joined: Tensor) -> Tensor:
        ctx.save_for_backward(joined)
        gate, up = joined.chunk(2, -1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (joined,) = ctx.saved_tensors
        gate, up = joined.chunk(2, -1)
        result = torch.empty(joined.shape, dtype=joined.dtype, device=joined.device)
        left, right = result.chunk(2, -1)
        torch.mul(gradients[0], F.silu(gate), out=right)
        torch.ops.aten.silu_backward.grad_input(gradients[0] * up, gate, grad_input=left)
        return result


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            joined = torch.cat((self.gate_proj.weight, self.up_proj.weight)).to(x.dtype)
            activated: Tensor = _SwiGLU.apply(F.linear(x, joined))  # type: ignore[no-untyped-call]
        else:
            gate, up = project(x, self.gate_proj, self.up_proj)
            activated = F.silu(gate) * up
        return F.linear(activated, self.down_proj.weight.to(x.dtype))


class Block(nn.Module):
    """One layer: attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.width, config.norm_epsilon)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_epsilon)

    def forward(self, x: Tensor, shared: Pass, layer: int) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x).to(shared.dtype), shared, layer)
        y: Tensor = self.mlp(self.post_attention_layernorm(x).to(shared.dtype))
        return x + y


class Decoder(nn.Module):
    """Embedding, blocks, final norm (the ``model.`` prefix of the checkpoint's names)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)


class Transformer(nn.Module):
    """A decoder-only language model.

    Args:
        config: the sizes.
        seed: of the initial weights; None leaves them uninitialised for a checkpoint to fill.
    """

    def __init__(self, config: ModelConfig, seed: int | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = Decoder(config)
        self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        if config.tied:
            self.lm_head.weight = self.model.embed_tokens.weight
        if seed is not None:
            self.initialise(seed)

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """Draw the weights: matrices N(0, 1/fan_in), what writes to the residual stream zero, norms one.

        Zero output projections make every block the identity at first (LAB.md). A tied embedding is drawn small,
        so that the first logits are near zero and the first loss near ln V; an untied head starts at zero.
        """
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0)
            elif name.endswith(("o_proj.weight", "down_proj.weight")) or name == "lm_head.weight":
                parameter.zero_()
            elif name == "model.embed_tokens.weight":
                parameter.normal_(0.0, 0.02 if self.config.tied else 1.0, generator=generator)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[1]), generator=generator)

    def hidden_states(
        self, ids: Tensor, bias: Tensor | None, cache: KVCache | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Run the blocks.

        Args:
            ids: token ids, shape (B, T).
            bias: additive attention mask, broadcastable to (B, H, T, T + cached); None lets each query see all keys.
            cache: keys and values of earlier positions, which this call extends by T.
            dtype: of the matrix products and of the result; None takes the weights' own.

        Returns:
            Normalised final states, shape (B, T, C); multiply by ``lm_head.weight`` for logits.
        """
        start = cache.length if cache is not None else 0
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        rotary = rotary_tables(positions, self.config.head_width, self.config.rope_base)
        x = self.model.embed_tokens(ids)
        shared = Pass(rotary, bias, cache, dtype or x.dtype)
        for layer, block in enumerate(self.model.layers):
            x = block(x, shared, layer)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.model.norm(x).to(shared.dtype)  # type: ignore[no-any-return]

    def forward(self, ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits of the token after each position, shape (B, T, V), every row one document.

        Args:
            ids: token ids, shape (B, T).
            cache: as in ``hidden_states``.
        """
        start = cache.length if cache is not None else 0
        query = torch.arange(start, start + ids.shape[1], device=ids.device)
        key = torch.arange(start + ids.shape[1], device=ids.device)
        dtype = self.model.embed_tokens.weight.dtype
        bias = torch.zeros(len(query), len(key), dtype=dtype, device=ids.device)
        bias.masked_fill_(key[None, :] > query[:, None], -torch.inf)
        return self.lm_head(self.hidden_states(ids, bias, cache))  # type: ignore[no-any-return]
