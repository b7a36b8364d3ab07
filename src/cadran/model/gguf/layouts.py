"""How the numbers of a tensor lie in a Hugging Face checkpoint and in a GGUF file, and the way from one to the other.

The facts are those of llama.cpp's converter. Everything but the offset of Gemma's norms, which is an addition in
float32, moves numbers without touching them: there and back is the identity. torch is imported where it is used.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Same:
    """One tensor, the same in both."""

    def checkpoint_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        """Shape of each tensor of the checkpoint, from the shapes of those in the GGUF file."""
        return shapes[0]

    def to_checkpoint(self, parts: list["Tensor"]) -> Iterator["Tensor"]:
        """The tensors of the checkpoint, from those of the GGUF file."""
        yield parts[0]

    def to_gguf(self, parts: Iterable["Tensor"]) -> list["Tensor"]:
        """The tensors of the GGUF file, from those of the checkpoint (taken one at a time)."""
        return list(parts)


@dataclass(frozen=True)
class CentredOnZero(Same):
    """A norm's weight that the checkpoint stores less one (Gemma)."""

    def to_checkpoint(self, parts: list["Tensor"]) -> Iterator["Tensor"]:
        """See `Same.to_checkpoint`."""
        yield parts[0].float() - 1

    def to_gguf(self, parts: Iterable["Tensor"]) -> list["Tensor"]:
        """See `Same.to_gguf`."""
        return [part.float() + 1 for part in parts]


@dataclass(frozen=True)
class Transposed(Same):
    """A matrix that the checkpoint stores as (in, out) (GPT-2's Conv1D)."""

    def checkpoint_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        """See `Same.checkpoint_shape`."""
        return shapes[0][::-1]

    def to_checkpoint(self, parts: list["Tensor"]) -> Iterator["Tensor"]:
        """See `Same.to_checkpoint`."""
        yield parts[0].T.contiguous()

    def to_gguf(self, parts: Iterable["Tensor"]) -> list["Tensor"]:
        """See `Same.to_gguf`."""
        return [part.T.contiguous() for part in parts]


@dataclass(frozen=True)
class RotaryPairs(Same):
    """Rows of queries or keys: rotary pairs are (i, i + D/2) in the checkpoint and (2i, 2i + 1) in the GGUF file.

    Attributes:
        heads: of width D each, one under the other.
    """

    heads: int

    def to_checkpoint(self, parts: list["Tensor"]) -> Iterator["Tensor"]:
        """See `Same.to_checkpoint`."""
        rows, *rest = parts[0].shape
        pairs = parts[0].reshape(self.heads, rows // self.heads // 2, 2, *rest)
        yield pairs.swapaxes(1, 2).reshape(rows, *rest)

    def to_gguf(self, parts: Iterable["Tensor"]) -> list["Tensor"]:
        """See `Same.to_gguf`."""
        return [self._interleaved(part) for part in parts]

    def _interleaved(self, part: "Tensor") -> "Tensor":
        rows, *rest = part.shape
        return part.reshape(self.heads, 2, rows // self.heads // 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


@dataclass(frozen=True)
class Stacked(Same):
    """One tensor (experts, out, in) for a matrix of each expert in the checkpoint."""

    def checkpoint_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        """See `Same.checkpoint_shape`."""
        return shapes[0][1:]

    def to_checkpoint(self, parts: list["Tensor"]) -> Iterator["Tensor"]:
        """See `Same.to_checkpoint`."""
        for expert in parts[0]:
            # A slice would keep the memory of all experts for as long as one is in use.
            yield expert.clone()

    def to_gguf(self, parts: Iterable["Tensor"]) -> list["Tensor"]:
        """See `Same.to_gguf`."""
        import torch

        return [torch.stack(list(parts))]


@dataclass(frozen=True)
class LatentExpansion(Same):
    """Keys and values expanded from the latent vector: one matrix in the checkpoint, two stacks in the GGUF file.

    The file has (heads, rank, plain) for the keys, transposed so that queries can be multiplied by it instead, and
    (heads, value, rank) for the values; the checkpoint has (heads * (plain + value), rank).

    Attributes:
        heads: how many.
        plain: width of a head's key without positions.
        value: width of a head's value.
    """

    heads: int
    plain: int
    value: int

    def checkpoint_shape(self, shapes: tuple[Shape, ...]) -> Shape:
        """See `Same.checkpoint_shape`."""
        return self.heads * (self.plain + self.value), shapes[0][1]

    def to_checkpoint(self, parts: list["Tensor"]) -> Iterator["Tensor"]:
        """See `Same.to_checkpoint`."""
        import torch

        # The two may be stored as different kinds.
        keys, values = parts if parts[0].dtype == parts[1].dtype else [part.float() for part in parts]
        yield torch.cat([keys.transpose(1, 2), values], dim=1).flatten(0, 1)

    def to_gguf(self, parts: Iterable["Tensor"]) -> list["Tensor"]:
        """See `Same.to_gguf`."""
        (joined,) = parts
        heads = joined.reshape(self.heads, self.plain + self.value, joined.shape[1])
        keys, values = heads[:, : self.plain], heads[:, self.plain :]
        return [keys.transpose(1, 2).contiguous(), values.contiguous()]
