"""The decoder-only Transformer of Cadran, in plain PyTorch.

One model for every family: ``ModelConfig`` says which of the known choices it makes, ``families/`` what the published
ones are called. Parameter names are those of ``transformers``' Qwen3, so a state dict of ours is a checkpoint. The
forward pass returns hidden states; the output head is applied by whoever needs logits (the loss does it in pieces, the
engine for the last position only), so that a (B, T, vocabulary) tensor exists only where somebody asks for it.

Axes: B batch, T positions, C width, H query heads, K key/value heads, D head width, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cadran.model.attention import attend, causal_bias, within_window
from cadran.model.cache import KVCache
from cadran.model.config import ModelConfig
from cadran.model.experts import MixtureOfExperts
from cadran.model.latent import LatentAttention
from cadran.model.linear import apply, project
from cadran.model.mlp import MLP
from cadran.model.norm import make_norm
from cadran.model.rope import rotary_tables
from cadran.model.rotate import rotate
from cadran.model.view import View


@dataclass(frozen=True, slots=True)
class Pass:
    """What every layer of one forward pass shares.

    Attributes:
        whole, local: the view of plain layers, and of those with a window.
        cache: earlier keys and values, or None.
        dtype: of the matrix products; the residual stream keeps the weights' own type.
    """

    whole: View
    local: View
    cache: KVCache | None
    dtype: torch.dtype


class Attention(nn.Module):
    """Grouped-query attention over rotated, and in most families normalised, queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = nn.Linear(config.width, queries, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.width, keys, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.width, keys, bias=config.qkv_bias)
        self.o_proj = nn.Linear(queries, config.width, bias=config.output_bias)
        if config.qk_norm is not None:
            each = config.qk_norm == "head"
            self.q_norm = make_norm(config, config.head_width if each else queries)
            self.k_norm = make_norm(config, config.head_width if each else keys)

    def forward(self, x: Tensor, view: View, cache: KVCache | None, layer: int) -> Tensor:
        """Shapes: (B, T, C) to (B, T, C)."""
        batch, length, _ = x.shape
        config = self.config
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_width
        q, k, v = project(x, self.q_proj, self.k_proj, self.v_proj)
        if config.qk_norm == "all":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q.reshape(batch, length, heads, width), k.reshape(batch, length, kv_heads, width)
        if config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        if view.rotary is not None:
            q, k = rotate(q, *view.rotary), rotate(k, *view.rotary)
        q, k = q.transpose(1, 2), k.transpose(1, 2)  # (B, H, T, D), (B, K, T, D)
        v = v.reshape(batch, length, kv_heads, width).transpose(1, 2)  # (B, K, T, D)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        y = attend(q, k, v, view.bias, config.attention_scale, config.attention_cap)  # (B, H, T, D)
        return apply(y.transpose(1, 2).reshape(batch, length, heads * width), self.o_proj)


class Block(nn.Module):
    """One layer: attention and MLP, each with its norms and added to the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = LatentAttention(config) if config.latent else Attention(config)
        sparse = config.experts is not None and config.experts.sparse[layer]
        self.mlp = MixtureOfExperts(config) if sparse else MLP(config)
        self.windowed = bool(config.windowed) and config.windowed[layer]
        self.before, self.after = config.norm_order != "post", config.norm_order != "pre"
        if self.before:
            self.input_layernorm = make_norm(config, config.width)
        # Under this name the norm stands before the MLP where there are only norms before, else after the attention.
        self.post_attention_layernorm = make_norm(config, config.width)
        if self.before and self.after:
            self.pre_feedforward_layernorm = make_norm(config, config.width)
        if self.after:
            self.post_feedforward_layernorm = make_norm(config, config.width)

    def forward(self, x: Tensor, shared: Pass, layer: int) -> Tensor:
        """Shapes: (B, T, C) to (B, T, C)."""
        view = shared.local if self.windowed else shared.whole
        y = (self.input_layernorm(x) if self.before else x).to(shared.dtype)
        y = self.self_attn(y, view, shared.cache, layer)
        x = x + (self.post_attention_layernorm(y) if self.after else y)
        if self.before:
            norm = self.pre_feedforward_layernorm if self.after else self.post_attention_layernorm
            y = self.mlp(norm(x).to(shared.dtype))
        else:
            y = self.mlp(x.to(shared.dtype))
        result: Tensor = x + (self.post_feedforward_layernorm(y) if self.after else y)
        return result


class Decoder(nn.Module):
    """Embeddings, blocks, final norm (the ``model.`` prefix of the checkpoint's names)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        # Given empty: drawing them here would be thrown away, and costs a second where nothing is drawn (no device).
        self.embed_tokens = nn.Embedding(
            config.vocabulary, config.width, _weight=torch.empty(config.vocabulary, config.width)
        )
        if config.rope is None:
            self.embed_positions = nn.Embedding(
                config.context, config.width, _weight=torch.empty(config.context, config.width)
            )
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = make_norm(config, config.width)


class Transformer(nn.Module):
    """A decoder-only language model.

    Args:
        config: the sizes and choices.
        seed: of the initial weights; None leaves them as they come, for a checkpoint to fill.
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
                parameter.fill_(0.0 if name.endswith("bias") else 1.0 - self.config.norm_offset)
            elif name.endswith(("o_proj.weight", "down_proj.weight")) or name == "lm_head.weight":
                parameter.zero_()
            elif name.startswith("model.embed_"):
                parameter.normal_(0.0, 0.02 if self.config.tied else 1.0, generator=generator)
            else:
                parameter.normal_(0.0, 1.0 / math.sqrt(parameter.shape[1]), generator=generator)

    def hidden_states(
        self,
        ids: Tensor,
        bias: Tensor | None,
        cache: KVCache | None = None,
        dtype: torch.dtype | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Run the blocks.

        Args:
            ids: token ids, shape (B, T).
            bias: additive attention mask, broadcastable to (B, H, T, T + cached); None lets each query see all keys.
            cache: keys and values of earlier positions, which this call extends by T.
            dtype: of the matrix products and of the result; None takes the weights' own.
            positions: of the tokens, shape (T,) or (B, T); None counts on from the cache.

        Returns:
            Normalised final states, shape (B, T, C), for ``logits``.
        """
        config = self.config
        start = cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(start, start + ids.shape[1], device=ids.device)
        x = self.model.embed_tokens(ids)
        if config.embedding_scale != 1:
            x = x * torch.tensor(config.embedding_scale, dtype=x.dtype, device=x.device)
        if config.rope is None:
            x = x + self.model.embed_positions(positions)
        shared = self._shared(x, positions, bias, cache, dtype or x.dtype)
        for layer, block in enumerate(self.model.layers):
            x = block(x, shared, layer)
        if cache is not None:
            cache.length += ids.shape[1]
        return self.model.norm(x).to(shared.dtype)  # type: ignore[no-any-return]

    def _shared(
        self, x: Tensor, positions: Tensor, bias: Tensor | None, cache: KVCache | None, dtype: torch.dtype
    ) -> Pass:
        config = self.config
        width = config.latent.rotary if config.latent else config.head_width
        rotary = rotary_tables(positions, width, config.rope, config.context) if config.rope else None
        whole = local = View(rotary, bias)
        if config.window is not None:
            if config.local_rope is not None:
                rotary = rotary_tables(positions, width, config.local_rope, config.context)
            cached = cache.length if cache is not None else 0
            local = View(rotary, within_window(bias, x.shape[1], cached, config.window, x))
        return Pass(whole, local, cache, dtype)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, shape (..., V), from states of shape (..., C)."""
        scores = apply(hidden, self.lm_head)
        if (cap := self.config.logit_cap) is not None:
            scores = torch.tanh(scores / cap) * cap
        return scores

    def forward(self, ids: Tensor, cache: KVCache | None = None, padding: Tensor | None = None) -> Tensor:
        """Logits of the token after each position, shape (B, T, V), every row one document.

        Args:
            ids: token ids, shape (B, T).
            cache: as in ``hidden_states``.
            padding: number of padding tokens at the left of each row, shape (B,); None means none.
        """
        start = cache.length if cache is not None else 0
        bias = causal_bias(ids.shape[1], start, self.model.embed_tokens.weight.dtype, ids.device, padding)
        positions = None
        if padding is not None:
            positions = torch.arange(start, start + ids.shape[1], device=ids.device) - padding[:, None]
            positions = positions.clamp(min=0)
        return self.logits(self.hidden_states(ids, bias, cache, positions=positions))
