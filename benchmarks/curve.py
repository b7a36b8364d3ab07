"""Held-out bits per byte against seconds of training."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Point:
    """Held-out bits per byte after so many steps and seconds of training, evaluation apart."""

    step: int
    seconds: float
    bits_per_byte: float


class Curve:
    """Points against a clock that starts when this is made and stands still while a point is taken.

    Args:
        evaluate: returns the bits per byte now.
        clock: seconds that never go back.
    """

    def __init__(self, evaluate: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self.points: list[Point] = []
        self._evaluate, self._clock = evaluate, clock
        self._seconds, self._since = 0.0, clock()

    def observe(self, step: int) -> None:
        """Stop the clock, evaluate, start it again."""
        self._seconds += self._clock() - self._since
        self.points.append(Point(step, self._seconds, self._evaluate()))
        self._since = self._clock()


def seconds_to(points: list[Point], target: float) -> float | None:
    """When a curve first reaches a figure: linear between the two points around it, None if it never does."""
    for before, after in zip(points[:1] + points, points, strict=False):
        if after.bits_per_byte <= target:
            fall = before.bits_per_byte - after.bits_per_byte
            share = (before.bits_per_byte - target) / fall if fall > 0 else 1.0
            return before.seconds + share * (after.seconds - before.seconds)
    return None
