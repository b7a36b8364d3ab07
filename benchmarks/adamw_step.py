"""One optimizer step, the same for every side of a speed benchmark: loss, gradients, clipping, fused AdamW.

Batches are drawn before the clock starts. Everything a side does to a batch of ids (masks, shifting, the loss) is on
the clock.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

CLIP = 1.0
"""Greatest gradient norm."""


@dataclass
class AdamWStep:
    """Calling it does one step on a fresh batch and returns the seconds that took.

    Attributes:
        model: whose parameters are trained.
        loss: from the tensors of one batch to the scalar loss, nats per target.
        draw: makes one batch.
        rate: learning rate, constant.
    """

    model: nn.Module
    loss: Callable[..., Tensor]
    draw: Callable[[], tuple[Tensor, ...]]
    rate: float = 1e-3
    optimizer: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.rate, fused=True)

    def on(self, *batch: Tensor) -> float:
        """Step on a given batch and return its loss, taken before the weights moved."""
        loss = self.loss(*batch)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def __call__(self) -> float:
        batch = self.draw()
        start = time.perf_counter()
        self.on(*batch)
        return time.perf_counter() - start


def random_ids(vocabulary: int, rows: int, length: int, seed: int = 0) -> Callable[[], tuple[Tensor]]:
    """A source of batches of one tensor: uniform ids, int64, shape (rows, length), another each call."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: (torch.randint(vocabulary, (rows, length), generator=generator),)
