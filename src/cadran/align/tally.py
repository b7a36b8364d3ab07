"""Means over the tokens of a step, gathered micro-batch by micro-batch."""

from torch import Tensor


class Tally:
    """What a step has come to so far.

    Attributes:
        loss: parts added up.
        read: tokens.
    """

    def __init__(self) -> None:
        self.loss, self.read = 0.0, 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Count some values in the mean of that name."""
        self.add_sum(name, values, values.numel())

    def add_sum(self, name: str, values: Tensor, count: int) -> None:
        """Count values whose sum is to be divided by another number, such as that of the answers they belong to."""
        self._sums[name] = self._sums.get(name, 0.0) + float(values.detach().double().sum())
        self._counts[name] = self._counts.get(name, 0) + count

    def figures(self) -> dict[str, float]:
        """The means by name; no name that nothing was counted of."""
        return {name: total / self._counts[name] for name, total in self._sums.items() if self._counts[name]}
