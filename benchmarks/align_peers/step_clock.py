"""Seconds of each optimizer step of a ``transformers`` trainer, from its own beginning to its own end."""

import time
from typing import Any

from transformers import TrainerCallback


class StepClock(TrainerCallback):  # type: ignore[misc]
    """A callback that keeps the seconds of each step, loading of data apart."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._began = 0.0

    def on_step_begin(self, *given: Any, **options: Any) -> None:
        """Remember when."""
        self._began = time.perf_counter()

    def on_step_end(self, *given: Any, **options: Any) -> None:
        """Count."""
        self.seconds.append(time.perf_counter() - self._began)
