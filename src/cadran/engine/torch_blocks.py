"""Keys and values in blocks of positions, as tensors that grow with use (Kwon et al. 2023, section 4.1).

Which block holds what is decided by whoever calls; here are only the numbers.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cadran.model.config import ModelConfig

FIRST_ROOM = 8
"""Blocks for which memory is taken at first; it doubles as higher ones are used, up to all of them."""

Slots = npt.NDArray[np.int64]


class TorchBlocks:
    """Per layer two tensors of shape (room, block_size, heads, width): keys and values.

    Latent attention keeps its narrow vector and the one rotated key in their place (one head, two widths).

    Args:
        config: of the model.
        blocks: how many there may be.
        block_size: positions in each.
        dtype: of the stored numbers.
        device: where they lie.
    """

    def __init__(
        self, config: ModelConfig, blocks: int, block_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        heads, first, second = config.cache_shape
        self.blocks, self.block_size, self.room = blocks, block_size, 0
        self.block_bytes = self.bytes_per_block(config, block_size, dtype)
        self.parts = [
            [torch.empty((0, block_size, heads, width), dtype=dtype, device=device) for _ in range(config.layers)]
            for width in (first, second)
        ]

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block, all layers."""
        heads, first, second = config.cache_shape
        return config.layers * block_size * heads * (first + second) * dtype.itemsize

    def reserve(self, blocks: int) -> None:
        """Take memory for the blocks below ``blocks``.

        Raises:
            ValueError: there are not so many.
        """
        if blocks > self.blocks:
            raise ValueError(f"block {blocks - 1} was asked for and there are {self.blocks}")
        if blocks <= self.room:
            return
        room = min(self.blocks, max(blocks, 2 * self.room, FIRST_ROOM))
        for layers in self.parts:
            for layer, old in enumerate(layers):
                # Zeros: a saved block is then the same bytes each time, and costs memory only once it is written.
                new = old.new_zeros((room, *old.shape[1:]))
                new[: self.room] = old
                layers[layer] = new
        self.room = room

    def copy(self, source: int, target: int, positions: int) -> None:
        """Copy the first ``positions`` of a block into another one."""
        self.reserve(max(source, target) + 1)
        for part in self._layers():
            part[target, :positions] = part[source, :positions]

    def read(self, block: int) -> bytes:
        """The numbers of a block, layer by layer, keys before values."""
        self.reserve(block + 1)
        return b"".join(part[block].contiguous().view(torch.uint8).cpu().numpy().tobytes() for part in self._layers())

    def write(self, block: int, data: bytes) -> None:
        """Restore what ``read`` gave; ``data`` has ``block_bytes``."""
        self.reserve(block + 1)
        place = 0
        for part in self._layers():
            size = part[block].numel() * part.element_size()
            piece = torch.frombuffer(bytearray(data[place : place + size]), dtype=part.dtype)
            part[block] = piece.view(part.shape[1:]).to(part.device)
            place += size

    def release(self) -> None:
        """Give the memory back; everything is forgotten."""
        self.parts = [[old.new_empty((0, *old.shape[1:])) for old in layers] for layers in self.parts]
        self.room = 0

    def _layers(self) -> list[Tensor]:
        """Keys and values of each layer in turn."""
        return [part for pair in zip(*self.parts, strict=True) for part in pair]


class PagedView:
    """Some sequences of equal numbers of new tokens, with the face of ``model.cache.KVCache``.

    Sequences of unequal length are aligned at their ends: what is too much at the beginning of the shorter ones shows
    their own first position, and the mask hides it. So a window, which counts from the end, is the same for all.

    Args:
        blocks: where keys and values lie.
        written: slots of the new tokens, shape (S, T); slot ``block * block_size + offset``.
        read: slots of everything that is seen, shape (S, L), the new ones last.
    """

    def __init__(self, blocks: TorchBlocks, written: Slots, read: Slots) -> None:
        self.rows, self.seen = read.shape
        self.length = self.seen - written.shape[1]
        device = blocks.parts[0][0].device
        self._parts = blocks.parts
        self._written = torch.from_numpy(written.reshape(-1)).to(device)
        run = self.rows == 1 and bool((np.diff(read[0]) == 1).all())
        # One sequence in consecutive blocks, the usual case of a conversation, is read where it lies.
        self._first = int(read[0, 0]) if run else None
        self._read = None if run else torch.from_numpy(read.reshape(-1)).to(device)

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return all that the sequences see, new ones included.

        Args:
            layer: index of the layer.
            k: new keys, shape (S, K, T, D).
            v: new values, (S, K, T, their width).

        Returns:
            Shapes (S, K, L, D) and (S, K, L, their width).
        """
        return self._exchange(self._parts[0][layer], k), self._exchange(self._parts[1][layer], v)

    def _exchange(self, part: Tensor, new: Tensor) -> Tensor:
        slots = part.flatten(0, 1)  # (room * block_size, K, D)
        slots.index_copy_(0, self._written, new.transpose(1, 2).flatten(0, 1).to(part.dtype))
        if self._read is None:
            assert self._first is not None
            found = slots[self._first : self._first + self.seen]
        else:
            found = slots.index_select(0, self._read)
        return found.view(self.rows, self.seen, *part.shape[2:]).transpose(1, 2)
