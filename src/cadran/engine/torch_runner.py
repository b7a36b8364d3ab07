"""Runs a Transformer in PyTorch for one sequence, with its keys and values kept."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cadran.model.attention import causal_bias
from cadran.model.cache import KVCache
from cadran.model.transformer import Transformer


class TorchRunner:
    """One sequence: ids go in, the logits after the last of them come out.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        dtype = model.model.embed_tokens.weight.dtype
        self.cache = KVCache(model.config, batch=1, capacity=model.config.context, dtype=dtype)
        self.ids: list[int] = []

    @torch.inference_mode()
    def advance(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Read more tokens.

        Args:
            ids: at least one; together with what was read before at most the model's context.

        Returns:
            Logits of the token that follows, shape (V,).
        """
        ids = self._read_anew(ids)
        weight = self.model.model.embed_tokens.weight
        bias = causal_bias(len(ids), self.cache.length, weight.dtype, weight.device) if len(ids) > 1 else None
        hidden = self.model.hidden_states(torch.tensor([ids], device=weight.device), bias, self.cache)
        self.ids.extend(ids)
        logits: npt.NDArray[np.float32] = self.model.logits(hidden[0, -1]).float().cpu().numpy()
        return logits

    def _read_anew(self, ids: Sequence[int]) -> list[int]:
        """What is to be read: everything once more when longrope's frequencies change with these tokens."""
        rope, before = self.model.config.rope, len(self.ids)
        if rope is None or rope.kind != "longrope" or not before <= rope.original < before + len(ids):
            return list(ids)
        everything = [*self.ids, *ids]
        self.cache.truncate(0)
        self.ids = []
        return everything

    def rewind(self, ids: Sequence[int]) -> list[int]:
        """Keep the longest common beginning with ``ids`` and return what remains to be read (at least one token)."""
        common = 0
        for mine, asked in zip(self.ids, ids[:-1], strict=False):
            if mine != asked:
                break
            common += 1
        rope = self.model.config.rope
        if rope is not None and rope.kind == "longrope" and common <= rope.original < len(self.ids):
            common = 0  # what was kept was turned by the frequencies of the longer text
        self.cache.truncate(common)
        self.ids = self.ids[:common]
        return list(ids[common:])
