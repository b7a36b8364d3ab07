"""The maps of a model that adapters have taken over: a frozen base, and by name what each adapter makes of it.

LoRA (Hu et al. 2021) adds ``scale * B A`` to a frozen matrix; rsLoRA (Kalajdzievski 2023) differs in the scale only;
DoRA (Liu et al. 2024) then gives each row a length of its own, whose denominator carries no gradient (section 4.3).
The base is never written to: with no adapter active, its bits come out.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cadran.errors import UserError
from cadran.model.linear import Grouping, apply
from cadran.model.lora_product import Part, fits, low_rank_products

if TYPE_CHECKING:
    from cadran.model.lora import Adapter


class LowRank(nn.Module):
    """What one adapter adds to one linear map.

    Args:
        a: shape (rank, in); may be shared with the maps that lie joined with this one in the checkpoint.
        b: shape (out, rank).
        scale: factor on the product.
        dropout: share of the input that is dropped in training.
        magnitude: lengths of the rows, shape (out,), for DoRA.
    """

    def __init__(
        self,
        a: nn.Parameter,
        b: nn.Parameter,
        scale: float,
        dropout: float = 0.0,
        magnitude: nn.Parameter | None = None,
    ) -> None:
        super().__init__()
        self.lora_A, self.lora_B = a, b
        self.magnitude = magnitude
        self.scale, self.dropout = scale, dropout

    def forward(self, x: Tensor, base: nn.Module) -> Tensor:
        """The adapted map.

        Args:
            x: shape (..., in).
            base: the frozen map.

        Returns:
            Shape (..., out), in the type of ``x``.
        """
        if (part := self.part(base, x.dtype)) is not None:
            return low_rank_products(x, [part])[0]
        y = apply(x, base)
        dropping = self.training and self.dropout > 0
        dropped = F.dropout(x, self.dropout) if dropping else x
        low = F.linear(F.linear(dropped, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scale
        if self.magnitude is None:
            return y + low
        weight = float_weight(base)
        gain = self._gain(weight).to(x.dtype)
        if dropping:  # the bias is outside of what is scaled, and the dropped input reaches both products
            plain = F.linear(dropped, weight.to(x.dtype))
        else:
            plain = y if base.bias is None else y - cast(Tensor, base.bias).to(x.dtype)
        return y + ((gain - 1) * plain + gain * low)

    def part(self, base: nn.Module, dtype: torch.dtype) -> Part | None:
        """This map as one of ``low_rank_products``; None in inference and where it is more than base and factors."""
        plain = self.magnitude is None and not (self.training and self.dropout > 0)
        if not (plain and torch.is_grad_enabled() and fits(base)):
            return None
        return Part(base, self.lora_A.to(dtype), self.lora_B.to(dtype), self.scale)

    def merged(self, weight: Tensor) -> Tensor:
        """The matrix that alone gives what base and adapter give together.

        The arithmetic is ``W + scale * (B @ A)``, for DoRA then times ``magnitude / norm`` row by row, in float32 or
        wider, and rounded once, to the type of ``weight``. Gradients reach A, B and the magnitude.

        Args:
            weight: of the base, shape (out, in).
        """
        summed = self._sum(weight)
        if self.magnitude is not None:
            summed = summed * self._gain(weight)[:, None]
        return summed.to(weight.dtype)

    def _sum(self, weight: Tensor) -> Tensor:
        delta = self.scale * (self.lora_B @ self.lora_A)
        return weight.to(torch.promote_types(weight.dtype, delta.dtype)) + delta

    def _gain(self, weight: Tensor) -> Tensor:
        """Factor on each row, shape (out,); differentiable in the magnitude only."""
        assert self.magnitude is not None
        with torch.no_grad():
            norm = row_lengths(self._sum(weight))
        return self.magnitude / norm.clamp_min(torch.finfo(norm.dtype).tiny)  # a row of zeros stays one


def row_lengths(weight: Tensor) -> Tensor:
    """Euclidean length of each row, shape (out,), in float32 or wider."""
    lengths: Tensor = torch.linalg.vector_norm(weight.to(torch.promote_types(weight.dtype, torch.float32)), dim=1)
    return lengths


def float_weight(base: nn.Module) -> Tensor:
    """The matrix of a map.

    Raises:
        UserError: it is quantised.
    """
    weight = getattr(base, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise UserError("DoRA and merging need weights in floating point; open the model unquantised")
    return weight


class Adapted(nn.Module):
    """A module and what adapters put in its place, one of them at a time.

    Args:
        base: the module as it was.

    Attributes:
        adapters: by name, ``LowRank`` or a whole module.
        records: by name, what the adapter is and where else it acts.
        active: name of the adapter that acts now, None for the base alone. An adapter that does nothing here leaves
            the base.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.records: dict[str, Adapter] = {}
        self.active: str | None = None
        self.train(base.training)

    def chosen(self) -> nn.Module | None:
        """What acts in place of, or upon, the base."""
        return self.adapters[self.active] if self.active is not None and self.active in self.adapters else None

    @property
    def weight(self) -> Tensor:
        """The effective matrix, for whoever multiplies by it himself (a loss computed in pieces, tied tensors)."""
        chosen = self.chosen()
        if isinstance(chosen, LowRank):
            return chosen.merged(float_weight(self.base))
        return cast(Tensor, (chosen or self.base).weight)


class LoraLinear(Adapted, Grouping):
    """A linear map with adapters; shapes as of the base, (..., in) to (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        """The base, or what the active adapter makes of it."""
        chosen = self.chosen()
        if isinstance(chosen, LowRank):
            return cast(Tensor, chosen(x, self.base))
        return apply(x, chosen or self.base)

    @staticmethod
    def together(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...] | None:
        """The outputs of several adapted maps of one input in one step; None where they must run alone."""
        parts = []
        for layer in layers:
            if not isinstance(layer, LoraLinear):
                return None
            chosen = layer.chosen()
            part = chosen.part(layer.base, x.dtype) if isinstance(chosen, LowRank) else None
            if part is None:
                return None
            parts.append(part)
        return low_rank_products(x, parts)

    def merge(self, name: str) -> nn.Module:
        """The plain map that does what base and adapter do; the base's own tensor is left as it is."""
        adapter = self.adapters[name]
        if not isinstance(adapter, LowRank):
            return adapter
        with torch.no_grad():
            self.base.weight = nn.Parameter(adapter.merged(float_weight(self.base)), requires_grad=False)
        return self.base

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return cast(int, self.base.in_features)

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return cast(int, self.base.out_features)


class AdaptedEmbedding(Adapted):
    """An embedding that adapters replace whole."""

    def forward(self, ids: Tensor) -> Tensor:
        """Shapes: (B, T) to (B, T, C)."""
        return cast(Tensor, (self.chosen() or self.base)(ids))
