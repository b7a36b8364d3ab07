"""Keys and values of the positions already read, so that the next token costs one position and not all of them."""

import torch
from torch import Tensor

from cadran.model.config import ModelConfig


class KVCache:
    """Per layer, keys and values of shape (B, K, capacity, D), filled from the left.

    Args:
        config: of the model that will fill it.
        batch: rows.
        capacity: positions it can hold.
        dtype: of the stored numbers.
        device: where they lie.
    """

    def __init__(
        self, config: ModelConfig, batch: int, capacity: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
    ) -> None:
        shape = (config.layers, batch, config.kv_heads, capacity, config.head_width)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind ``length`` and return all of the layer's, new ones included.

        Args:
            layer: index of the layer.
            k: new keys, shape (B, K, T, D).
            v: new values, same shape.

        Raises:
            ValueError: more positions than ``capacity``.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions and {end} were asked for")
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on."""
        self.length = min(self.length, length)
