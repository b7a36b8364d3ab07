"""From adjusted logits to integer weights, and the filters that take tokens away. Numpy.

A weight is 2^42 times the probability relative to the likeliest token, rounded to an integer, so sums do not depend on
the order of addition: the compiled core, which adds in another order, draws the same token. The power of two is built
from additions and multiplications only, which round alike everywhere. A token less likely than 1e-13 times the
likeliest has weight 0 and is never drawn. Tokens are ordered by weight, ties by the smaller id.

The definition that native/sampler.cpp equals; sources and order are in ``cadran.engine.sampler``.
"""

import math

import numpy as np
import numpy.typing as npt

from cadran.engine.sampling.params import SamplingParams

Floats = npt.NDArray[np.float64]
Weights = npt.NDArray[np.int64]

UNIT = 2.0**42  # weight of the likeliest token
LOG2_E = 1.4426950408889634
LEAST_EXPONENT = -64.0  # weights below it are 0 anyway
# 2^f for -0.5 <= f <= 0.5 within 4e-14, and exactly 1 at 0; interpolated at Chebyshev's nodes.
POWER = (
    1.0,
    0.6931471805599453,
    0.2402265069581299,
    0.05550410866476081,
    0.009618129159402565,
    0.0013333558178986757,
    0.00015403455852449878,
    1.525268687633831e-05,
    1.3255224879382487e-06,
    1.020311571507518e-07,
)


def power_of_two(exponents: Floats) -> Floats:
    """2 to the given powers, which are at most 0; below 2^-64 the result stays there."""
    bounded = np.maximum(exponents, LEAST_EXPONENT)
    whole = np.rint(bounded)
    fraction = bounded - whole
    result = np.full_like(fraction, POWER[-1])
    for coefficient in POWER[-2::-1]:
        result = result * fraction + coefficient
    powers: Floats = np.ldexp(result, whole.astype(np.int32))
    return powers


def exponents(values: Floats, temperature: float) -> Floats:
    """Logarithm to base 2 of each probability relative to the largest: shape (V,), at most 0."""
    powers: Floats = (values - values.max()) * min(LOG2_E / temperature, 1e30)
    return powers


def weigh(powers: Floats) -> Weights:
    """Integer weights of tokens whose ``exponents`` these are."""
    return np.rint(power_of_two(powers) * UNIT).astype(np.int64)


def share_of(share: float, total: int) -> int:
    """The weight that reaches a share of the whole; at least 1."""
    return min(max(math.ceil(share * float(total)), 1), total)


def ranking(weights: Weights) -> npt.NDArray[np.int64]:
    """Ids from the likeliest on, ties by the smaller id."""
    return np.argsort(-weights, kind="stable")


def only(weights: Weights, kept: npt.NDArray[np.int64]) -> Weights:
    """The weights of the kept ids, 0 elsewhere."""
    left = np.zeros_like(weights)
    left[kept] = weights[kept]
    return left


def reaching(weights: Weights, order: npt.NDArray[np.int64], share: float) -> Weights:
    """The fewest tokens, taken in this order, whose weight reaches the share of the whole."""
    running = np.cumsum(weights[order])
    return only(weights, order[: int(np.searchsorted(running, share_of(share, int(running[-1])))) + 1])


def spread(values: Floats) -> float:
    """Standard deviation of the logits above minus infinity. The sums run over eight lanes, id modulo 8, in order."""
    finite = values > -np.inf
    distance = np.where(finite, values, 0.0) - np.where(finite, values.max(), 0.0)
    lanes = np.pad(distance, (0, -len(distance) % 8)).reshape(-1, 8)
    total, squares = (float(np.cumsum(np.cumsum(part, axis=0)[-1])[-1]) for part in (lanes, lanes * lanes))
    count = float(np.count_nonzero(finite))
    mean = total / count
    return math.sqrt(max(squares / count - mean * mean, 0.0))


def typical(weights: Weights, powers: Floats, share: float) -> Weights:
    """The tokens whose surprise is nearest to the expected one, as many as reach the share.

    Surprise less entropy is the mean exponent less the token's own: the normaliser cancels.
    """
    left = np.flatnonzero(weights)
    mean = float(np.cumsum(weights[left].astype(np.float64) * powers[left])[-1]) / float(int(weights.sum()))
    shift = np.abs(powers[left] - mean)
    return reaching(weights, left[np.lexsort((left, -weights[left], shift))], share)


def exclude_top_choices(weights: Weights, threshold: float) -> Weights:
    """Drop the tokens at least as probable as the threshold, all but the least likely of them."""
    order = ranking(weights)
    top = int(np.count_nonzero(weights >= threshold * float(int(weights.sum()))))
    return only(weights, order[max(top - 1, 0) :])


def truncate(weights: Weights, powers: Floats, params: SamplingParams) -> Weights:
    """Top-k, typical, top-p and min-p, one after the other; at least one token is left."""
    if params.top_k:
        weights = only(weights, ranking(weights)[: params.top_k])
    if params.typical_p < 1:
        weights = typical(weights, powers, params.typical_p)
    if params.top_p < 1:
        weights = reaching(weights, ranking(weights), params.top_p)
    if params.min_p > 0:
        weights = np.where(weights >= params.min_p * float(weights.max()), weights, 0)
    return weights


def within_surprise(weights: Weights, bits: float) -> Weights:
    """The tokens whose surprise is at most so many bits, and the likeliest in any case (mirostat)."""
    share = float(power_of_two(np.array([-bits if bits > 0 else 0.0]))[0])
    return np.where(weights >= min(float(weights.max()), share * float(int(weights.sum()))), weights, 0)
