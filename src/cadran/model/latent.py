"""Multi-head latent attention (DeepSeek-V2, 2024, section 2.1): one narrow vector per position is kept, and keys and
values of all heads are expanded from it; a single rotated key, shared by the heads, carries the positions.
"""

import torch
from torch import Tensor, nn

from cadran.model.attention import attend
from cadran.model.cache import KVCache
from cadran.model.config import ModelConfig
from cadran.model.linear import apply
from cadran.model.norm import RMSNorm
from cadran.model.rotate import rotate
from cadran.model.view import View

_EPSILON = 1e-6
"""Of the two inner norms, whatever the model's own is: the released models were trained so."""


class LatentAttention(nn.Module):
    """Attention from a compressed state.

    Args:
        config: must have ``latent``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.latent is not None
        latent = config.latent
        self.config, self.latent = config, latent
        queries = config.heads * (latent.plain + latent.rotary)
        if latent.query_rank:
            self.q_a_proj = nn.Linear(config.width, latent.query_rank, bias=config.qkv_bias)
            self.q_a_layernorm = RMSNorm(latent.query_rank, _EPSILON)
            self.q_b_proj = nn.Linear(latent.query_rank, queries, bias=False)
        else:
            self.q_proj = nn.Linear(config.width, queries, bias=False)
        self.kv_a_proj_with_mqa = nn.Linear(config.width, latent.rank + latent.rotary, bias=config.qkv_bias)
        self.kv_a_layernorm = RMSNorm(latent.rank, _EPSILON)
        self.kv_b_proj = nn.Linear(latent.rank, config.heads * (latent.plain + latent.value), bias=False)
        self.o_proj = nn.Linear(config.heads * latent.value, config.width, bias=config.output_bias)

    def forward(self, x: Tensor, view: View, cache: KVCache | None, layer: int) -> Tensor:
        """Shapes: (B, T, C) to (B, T, C)."""
        assert view.rotary is not None
        batch, length, _ = x.shape
        latent, heads = self.latent, self.config.heads
        if latent.query_rank:
            q = apply(self.q_a_layernorm(apply(x, self.q_a_proj)), self.q_b_proj)
        else:
            q = apply(x, self.q_proj)
        q_plain, q_turned = torch.split(q.view(batch, length, heads, -1), [latent.plain, latent.rotary], -1)
        kept, k_turned = torch.split(apply(x, self.kv_a_proj_with_mqa), [latent.rank, latent.rotary], -1)
        kept = self.kv_a_layernorm(kept)[:, None]  # (B, 1, T, rank)
        q_turned = rotate(self._paired(q_turned), *view.rotary)
        k_turned = rotate(self._paired(k_turned[:, :, None]), *view.rotary).transpose(1, 2)  # (B, 1, T, rotary)
        if cache is not None:
            kept, k_turned = cache.append(layer, kept, k_turned)
        expanded = apply(kept[:, 0], self.kv_b_proj).view(batch, kept.shape[2], heads, -1).transpose(1, 2)
        k_plain, v = torch.split(expanded, [latent.plain, latent.value], -1)
        k = torch.cat((k_plain, k_turned.expand(-1, heads, -1, -1)), -1)
        query = torch.cat((q_plain, q_turned), -1).transpose(1, 2)
        y = attend(query, k, v, view.bias, self.config.attention_scale, None)  # (B, H, T, value)
        return apply(y.transpose(1, 2).reshape(batch, length, heads * latent.value), self.o_proj)

    def _paired(self, x: Tensor) -> Tensor:
        """Pairs (2i, 2i + 1) brought to (i, i + R / 2), as ``rotate`` turns them; scores do not mind the order."""
        return torch.cat((x[..., 0::2], x[..., 1::2]), -1) if self.latent.interleaved else x
