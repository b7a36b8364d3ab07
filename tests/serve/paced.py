"""Engines that take their time, so that what is under way in a test is under way for certain."""

import threading
import time
from collections.abc import Callable
from typing import Any

from cadran.engine.engine import Engine
from cadran.serve.known_model import KnownModel


def paused(engine: Engine, pause: Callable[[int], None]) -> Engine:
    """The engine, which calls ``pause`` before every step, with the most tokens that an answer may gain by it."""
    runner: Any = engine.runner
    step, burst = runner.step, runner.burst

    def paused_step(batch: Any) -> Any:
        pause(1)
        return step(batch)

    def paused_burst(batch: Any, samplers: Any, stops: Any, steps: int) -> Any:  # without looking up in between
        pause(steps)
        return burst(batch, samplers, stops, steps)

    runner.step, runner.burst = paused_step, paused_burst
    return engine


class Paced:
    """Opens the real engine with a pause before every step, and counts them.

    Args:
        seconds: that a step takes at least.

    Attributes:
        steps: begun so far.
        seconds: see above; may be changed.
        hold: while it is cleared no step goes on.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.steps, self.seconds = 0, seconds
        self._last: int | None = None
        self.hold = threading.Event()
        self.hold.set()

    def hold_after(self, steps: int) -> None:
        """Let so many steps go on from now, and clear ``hold`` then."""
        self._last = self.steps + steps

    def __call__(self, known: KnownModel) -> Engine:
        """The model, opened."""
        return paused(Engine.load(known.path, adapter=known.adapter), self._pause)

    def _pause(self, _: int) -> None:
        self.steps += 1
        if self._last is not None and self.steps > self._last:
            self._last = None
            self.hold.clear()
        time.sleep(self.seconds)
        assert self.hold.wait(300), "the test never let the engine go on"
