"""What goes into the linear maps of a layer when it reads text: seen by stand-ins, kept as sums, never as rows."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cadran.model.linear import apply
from cadran.model.transformer import Block, Pass, Transformer

ROWS = 8
"""Windows read at a time."""


class Moments:
    """Mean of x x^T and of abs(x) over the inputs x of a map."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self._products = torch.zeros(width, width, dtype=torch.float64)
        self._magnitudes = torch.zeros(width, dtype=torch.float64)

    def add(self, x: Tensor) -> None:
        """Take in inputs, shape (..., width)."""
        flat = x.reshape(-1, x.shape[-1]).float()
        self.count += len(flat)
        self._products += flat.T @ flat
        self._magnitudes += flat.abs().sum(0, dtype=torch.float64)

    @property
    def hessian(self) -> Tensor:
        """Mean of x x^T, float64, shape (width, width); zero when nothing was seen."""
        return self._products / max(1, self.count)

    @property
    def magnitude(self) -> Tensor:
        """Mean of abs(x), float64, shape (width,)."""
        return self._magnitudes / max(1, self.count)


class _Enough(Exception):
    """The one map that was watched has seen its input; the rest of the layer need not run."""


class _Watched(nn.Module):
    """Stands in for a linear map and notes its inputs."""

    def __init__(self, inner: nn.Linear, moments: Moments, last: bool) -> None:
        super().__init__()
        self.inner, self.moments, self.last = inner, moments, last

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (..., in) to (..., out)."""
        self.moments.add(x)
        if self.last:
            raise _Enough
        return apply(x, self.inner)


@dataclass
class Prefix:
    """Everything before a layer: its input for each window, and what its forward pass needs besides.

    Attributes:
        states: input of the layer, shape (windows, T, C), replaced as layers are passed.
        shared: of the forward pass.
    """

    states: Tensor
    shared: Pass

    @classmethod
    def of(cls, model: Transformer, windows: Tensor) -> "Prefix":
        """The input of the first layer.

        Args:
            model: float32.
            windows: token ids, shape (windows, T).
        """
        catcher = _Catcher()
        layers, model.model.layers = model.model.layers, nn.ModuleList([catcher])
        try:
            for piece in torch.split(windows, ROWS):
                bias = torch.full((windows.shape[1],) * 2, -torch.inf).triu_(1)
                model.hidden_states(piece, bias)
        finally:
            model.model.layers = layers
        assert catcher.shared is not None
        return cls(torch.cat(catcher.states), catcher.shared)

    def advance(self, block: Block, layer: int) -> None:
        """Pass a layer."""
        for rows in torch.split(self.states, ROWS):
            rows.copy_(block(rows, self.shared, layer))

    def observe(self, block: Block, layer: int, names: Iterable[str]) -> dict[str, Moments]:
        """What goes into maps of a layer that is not passed yet.

        Args:
            block: the layer.
            layer: its number.
            names: of maps within it. A single one ends the pass where it stands.
        """
        with watching(block, list(names)) as moments:
            for rows in torch.split(self.states, ROWS):
                try:
                    block(rows, self.shared, layer)
                except _Enough:
                    continue
        return moments


class _Catcher(nn.Module):
    """Stands in for all layers and keeps what the first would be given."""

    def __init__(self) -> None:
        super().__init__()
        self.states: list[Tensor] = []
        self.shared: Pass | None = None

    def forward(self, x: Tensor, shared: Pass, layer: int) -> Tensor:
        """Returns what it is given."""
        self.states.append(x.clone())
        self.shared = shared
        return x


@contextmanager
def watching(block: nn.Module, names: list[str]) -> Iterator[dict[str, Moments]]:
    """Maps of a layer replaced by stand-ins for as long as the context is open."""
    moments: dict[str, Moments] = {}
    places: list[tuple[nn.Module, str, nn.Linear]] = []
    try:
        for name in names:
            parent, _, own = name.rpartition(".")
            holder, linear = block.get_submodule(parent), block.get_submodule(name)
            assert isinstance(linear, nn.Linear)
            moments[name] = Moments(linear.in_features)
            setattr(holder, own, _Watched(linear, moments[name], len(names) == 1))
            places.append((holder, own, linear))
        yield moments
    finally:
        for holder, own, linear in places:
            setattr(holder, own, linear)
