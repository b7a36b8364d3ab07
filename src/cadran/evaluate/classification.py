"""Share of right answers, the share a constant answer gets, and how far chance alone could move either.

An accuracy is never reported without its interval and the majority class beside it.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import sqrt

from cadran.errors import UserError

_Z95 = 1.959963984540054  # the standard normal exceeds it with probability 0.025


def accuracy(predicted: Sequence[Hashable], expected: Sequence[Hashable]) -> float:
    """Share of predictions equal to the expected label, in [0, 1].

    Raises:
        UserError: there is no prediction.
        ValueError: the two sequences differ in length.
    """
    if len(predicted) != len(expected):
        raise ValueError(f"{len(predicted)} predictions cannot be compared with {len(expected)} expected labels")
    _require_rows(expected)
    return sum(p == e for p, e in zip(predicted, expected, strict=True)) / len(expected)


def majority_accuracy(expected: Sequence[Hashable]) -> float:
    """Accuracy of the best constant answer: the share of the most frequent label, in (0, 1].

    It looks at the held-out labels themselves, so it is the strictest constant rival (a majority class learnt from
    the training rows scores the same or less).

    Raises:
        UserError: there is no label.
    """
    _require_rows(expected)
    return max(Counter(expected).values()) / len(expected)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion, sound for few trials and near 0 and 1.

    Args:
        successes: right answers, in [0, trials].
        trials: answers, at least 1.

    Returns:
        Lower and upper bound, 0 <= lower <= successes / trials <= upper <= 1.

    Raises:
        ValueError: the counts are impossible.

    Source: Wilson 1927; Newcombe 1998, method 3 (no continuity correction).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials are impossible")
    share = successes / trials
    z2 = _Z95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = _Z95 * sqrt(share * (1 - share) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    # At the extremes one bound equals the share exactly; rounding must not push it beyond.
    return min(max(0.0, centre - half), share), max(min(1.0, centre + half), share)


def _require_rows(expected: Sequence[Hashable]) -> None:
    if not expected:
        raise UserError("There is no label to score: raise the number of held-out rows.")
