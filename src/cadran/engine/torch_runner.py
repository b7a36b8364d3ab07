"""Runs a Transformer in PyTorch for one sequence, with its keys and values kept."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cadran.model.cache import KVCache
from cadran.model.transformer import Transformer


class TorchRunner:
    """One sequence: ids go in, the logits after the last of them come out.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.cache = KVCache(model.config, batch=1, capacity=model.config.context)
        self.ids: list[int] = []

    @torch.inference_mode()
    def advance(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """Read more tokens.

        Args:
            ids: at least one; together with what was read before at most the model's context.

        Returns:
            Logits of the token that follows, shape (V,).
        """
        query = torch.arange(self.cache.length, self.cache.length + len(ids))
        key = torch.arange(self.cache.length + len(ids))
        bias = None
        if len(ids) > 1:
            bias = torch.zeros(len(query), len(key)).masked_fill_(key[None, :] > query[:, None], -torch.inf)
        hidden = self.model.hidden_states(torch.tensor([list(ids)]), bias, self.cache)
        self.ids.extend(ids)
        logits: npt.NDArray[np.float32] = self.model.lm_head(hidden[0, -1]).float().numpy()
        return logits

    def rewind(self, ids: Sequence[int]) -> list[int]:
        """Keep the longest common beginning with ``ids`` and return what remains to be read (at least one token)."""
        common = 0
        for mine, asked in zip(self.ids, ids[:-1], strict=False):
            if mine != asked:
                break
            common += 1
        self.cache.truncate(common)
        self.ids = self.ids[:common]
        return list(ids[common:])
