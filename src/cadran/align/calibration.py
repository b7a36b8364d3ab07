"""Whether a reward model that says 80 % is right 80 times in a hundred.

A pair enters in an order drawn by a seed: were the chosen answer always the first, the observed share would be one in
every bin and nothing could be learnt from it. Source: Guo et al. 2017, section 2 (expected calibration error).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np

BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Pairs of which about the same was foretold.

    Attributes:
        predicted: mean foretold probability that the first answer is the better one.
        observed: share of the pairs in which it was.
        pairs: how many there are.
    """

    predicted: float
    observed: float
    pairs: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Foretold against observed.

    Attributes:
        bins: those that hold pairs, by rising probability.
        error: expected calibration error: mean distance of foretold and observed, weighted by pairs, in [0, 1].
    """

    bins: list[Bin]
    error: float


def calibrate(differences: Sequence[float], seed: int, bins: int = BINS) -> Calibration:
    """Compare the probabilities of a Bradley-Terry model with what was chosen.

    Args:
        differences: score of the chosen answer minus score of the rejected one, for each pair, shape (P,), P >= 1.
        seed: of the order in which the two answers of a pair enter.
        bins: of equal width over [0, 1].

    Returns:
        Bins by sigma(score of the first - score of the second).

    Raises:
        ValueError: there is no pair.
    """
    if not differences:
        raise ValueError("there is no pair to calibrate on")
    chosen_first = np.random.Generator(np.random.PCG64(seed)).random(len(differences)) < 0.5
    found: dict[int, list[tuple[float, bool]]] = {}
    for difference, first in zip(differences, chosen_first.tolist(), strict=True):
        probability = _sigmoid(difference if first else -difference)
        found.setdefault(min(int(probability * bins), bins - 1), []).append((probability, first))
    result = [
        Bin(sum(p for p, _ in held) / len(held), sum(first for _, first in held) / len(held), len(held))
        for _, held in sorted(found.items())
    ]
    error = sum(held.pairs * abs(held.predicted - held.observed) for held in result) / len(differences)
    return Calibration(result, error)


def _sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) without overflow."""
    return 1 / (1 + exp(-x)) if x >= 0 else exp(x) / (1 + exp(x))
