"""The sampler in numpy: what runs without the compiled core, and what the core is tested against."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cadran.engine.sampling.adjustments import adjusted
from cadran.engine.sampling.params import SamplingParams
from cadran.engine.sampling.truncation import (
    LOG2_E,
    UNIT,
    Floats,
    Weights,
    exclude_top_choices,
    exponents,
    spread,
    truncate,
    weigh,
    within_surprise,
)
from cadran.errors import UserError

if TYPE_CHECKING:
    from cadran.engine.request import Scored

Logits = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint32]

MOST_TOP = 64
WIDEST = 2**20
NOT_A_NUMBER = (
    "the model's logits are not all numbers; its weights are damaged or overflow, load it again or in another precision"
)
NOTHING_LEFT = "no token may come next: mask and logit bias forbid all that the model can say; loosen them"
WIDTH = f"there must be from 1 to {WIDEST} logits to choose from; give one for each token of the vocabulary"


def uniforms(seed: int, position: int) -> tuple[float, float]:
    """Two numbers in [0, 1) that depend on seed and position alone: of the draw and of XTC.

    Source: Salmon et al. 2011, Philox 4x64-10; numpy's generator with the key (seed, position).
    """
    key = np.array([seed, position], dtype=np.uint64)
    first, second = np.random.Generator(np.random.Philox(key=key)).random(2)
    return float(first), float(second)


def draw(weights: Weights, uniform: float) -> int:
    """The id at which the running sum of the weights passes a uniform share of the whole."""
    total = int(weights.sum())
    target = min(int(uniform * float(total)), total - 1)
    return int(np.searchsorted(np.cumsum(weights), target, side="right"))


def check(logits: Logits) -> None:
    """Refuse what nothing can be chosen from.

    Raises:
        UserError: there are no logits or too many, or one is NaN or plus infinity.
    """
    if not 1 <= len(logits) <= WIDEST:
        raise UserError(WIDTH)
    if not bool((logits < np.inf).all()):
        raise UserError(NOT_A_NUMBER)


def softened(values: Floats, params: SamplingParams) -> tuple[Weights, Floats]:
    """Weights after top-n-sigma and temperature, and the exponents they come from."""
    powers = exponents(values, params.temperature)
    weights = weigh(powers)
    if params.top_n_sigma > 0 and not params.mirostat:
        weights = np.where(values >= values.max() - params.top_n_sigma * spread(values), weights, 0)
    return weights, powers


def probabilities(
    logits: npt.NDArray[np.floating], params: SamplingParams, prompt: Sequence[int] = (), answer: Sequence[int] = ()
) -> Floats:
    """Distribution the next token is drawn from when XTC leaves its top choices in (mirostat aside).

    Args:
        logits: shape (V,).
        params: temperature above 0.
        prompt: ids that the answer follows.
        answer: ids chosen so far.

    Returns:
        Shape (V,), sums to one.
    """
    weights = truncate(*softened(adjusted(logits.astype(np.float32), params, prompt, answer), params), params)
    shares: Floats = weights / float(int(weights.sum()))
    return shares


def scored(logits: Logits, token: int | None, top: int = 0) -> "Scored":
    """Log-probability of a token and the likeliest ones, from raw logits.

    Args:
        logits: shape (V,).
        token: id, or None for the alternatives alone (then ``token`` of the result is -1).
        top: how many alternatives, at most 64; ties by the smaller id, impossible tokens left out.
    """
    from cadran.engine.request import Scored

    check(logits)
    values = logits.astype(np.float64)
    largest = float(values.max())
    if largest == -math.inf:
        raise UserError(NOTHING_LEFT)
    normaliser = math.log(float(int(weigh((values - largest) * LOG2_E).sum())) / UNIT)

    def logprob(index: int) -> float:
        return (float(values[index]) - largest) - normaliser

    order = np.argsort(-values, kind="stable")[: min(top, MOST_TOP)]
    alternatives = tuple((int(i), logprob(int(i))) for i in order if values[i] > -math.inf)
    return Scored(-1 if token is None else token, None if token is None else logprob(token), alternatives)


class ReferenceSampler:
    """One answer: its history and mirostat's bound.

    Args:
        params: how to choose.
        prompt: ids that the answer follows.
        seed: of this answer.
    """

    def __init__(self, params: SamplingParams, prompt: Sequence[int], seed: int) -> None:
        self.params, self.prompt, self.seed = params, tuple(prompt), seed
        self.answer: list[int] = []
        self.mu = 2 * params.mirostat_tau
        self._chosen: tuple[int, float] | None = None

    def choose(self, logits: Logits, position: int, mask: Mask | None = None) -> int:
        """The token at a position; records nothing.

        Raises:
            UserError: the logits are no numbers, or nothing is allowed.
        """
        check(logits)
        params = self.params
        self._chosen = None
        values = adjusted(logits, params, self.prompt, self.answer, mask)
        if values.max() == -math.inf:
            raise UserError(NOTHING_LEFT)
        if params.temperature == 0:
            return int(np.argmax(values))
        weights, powers = softened(values, params)
        drawn, excluding = uniforms(self.seed, position)
        if params.mirostat:
            token = draw(within_surprise(weights, self.mu), drawn)
            self._chosen = token, math.log2(float(int(weights.sum()))) - math.log2(float(int(weights[token])))
            return token
        weights = truncate(weights, powers, params)
        if excluding < params.xtc_probability:
            weights = exclude_top_choices(weights, params.xtc_threshold)
        return draw(weights, drawn)

    def accept(self, token: int) -> None:
        """Record a token of the answer, chosen or forced."""
        if self._chosen is not None and self._chosen[0] == token:
            self.mu -= self.params.mirostat_eta * (self._chosen[1] - self.params.mirostat_tau)
        self._chosen = None
        self.answer.append(token)
