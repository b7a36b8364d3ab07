"""Keys and values of the positions already read, so that the next token costs one position and not all of them."""

import torch
from torch import Tensor

from cadran.model.config import ModelConfig

FIRST_ROOM = 256
"""Positions for which memory is taken at first; it doubles as they fill, up to the capacity."""


class KVCache:
    """Per layer, keys and values of shape (B, K, room, D), filled from the left.

    Latent attention keeps its narrow vector and the one rotated key in their place (K = 1, two widths).

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
        heads, first, second = config.cache_shape
        shape = (config.layers, batch, heads, min(capacity, FIRST_ROOM))
        self.keys = torch.zeros((*shape, first), dtype=dtype, device=device)
        self.values = torch.zeros((*shape, second), dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values behind ``length`` and return all of the layer's, new ones included.

        Args:
            layer: index of the layer.
            k: new keys, shape (B, K, T, D).
            v: new values, (B, K, T, their width).

        Raises:
            ValueError: more positions than ``capacity``.
        """
        end = self.length + k.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions and {end} were asked for")
        if end > self.keys.shape[3]:
            room = min(self.capacity, max(end, 2 * self.keys.shape[3]))
            self.keys, self.values = self._grown(self.keys, room), self._grown(self.values, room)
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def truncate(self, length: int) -> None:
        """Forget the positions from ``length`` on."""
        self.length = min(self.length, length)

    def _grown(self, old: Tensor, room: int) -> Tensor:
        new = old.new_zeros((*old.shape[:3], room, old.shape[4]))
        new[:, :, :, : old.shape[3]] = old
        return new
