"""Learning-rate schedules as a factor of the peak."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Schedule:
    """Warm-up, plateau, decay (WSD), or warm-up and a cosine.

    Attributes:
        steps: optimizer steps of the whole training.
        warmup: share of the steps in which the rate rises linearly.
        decay: share of the steps, at the end, in which it falls linearly to ``final`` (WSD only).
        final: last factor.
        shape: ``wsd`` or ``cosine``.
    """

    steps: int
    warmup: float = 0.02
    decay: float = 0.5
    final: float = 0.0
    shape: Literal["wsd", "cosine"] = "wsd"

    def factor(self, step: int) -> float:
        """Factor of the peak rate at optimizer step ``step``; never zero before the end."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        if self.shape == "cosine":
            progress = (step - rising) / max(1, self.steps - rising)
            return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
        falling = max(1, round(self.decay * self.steps))
        left = (self.steps - step) / falling
        return self.final + (1 - self.final) * max(0.0, min(1.0, left))
