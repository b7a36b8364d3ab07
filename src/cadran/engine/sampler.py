"""Choosing the next token. The random number depends on (seed, position) alone, so an answer does not depend on
what else the engine is doing, on streaming, or on how the prompt was read.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cadran.errors import UserError


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose.

    Attributes:
        temperature: divides the logits; 0 takes the most likely token.
        top_p: smallest set of tokens whose probability reaches this share (nucleus); 1 keeps all.
        top_k: number of tokens kept; 0 keeps all.
        seed: of the random numbers.
        max_tokens: most tokens to generate.
    """

    temperature: float = 0.8
    top_p: float = 0.95
    top_k: int = 0
    seed: int = 0
    max_tokens: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise UserError(
                f"the temperature is {self.temperature}; give a number from 0 to 10, e.g. --temperature 0.8"
            )
        if not 0 < self.top_p <= 1:
            raise UserError(f"top-p is {self.top_p}; give a number above 0 and up to 1, e.g. --top-p 0.95")
        if self.top_k < 0:
            raise UserError(f"top-k is {self.top_k}; give 0 (all) or a positive number")
        if self.max_tokens < 1:
            raise UserError(f"max-tokens is {self.max_tokens}; give a positive number, e.g. --max-tokens 100")
        if not 0 <= self.seed < 2**64:
            raise UserError(f"the seed is {self.seed}; give a number from 0 to 2**64 - 1, e.g. --seed 1")


def probabilities(logits: npt.NDArray[np.floating], params: SamplingParams) -> npt.NDArray[np.float64]:
    """Distribution the next token is drawn from: temperature, then top-k, then top-p.

    Args:
        logits: shape (V,).
        params: temperature above 0.

    Returns:
        Shape (V,), sums to one; ties are broken by the smaller id.
    """
    scaled = logits.astype(np.float64) / params.temperature
    weights: npt.NDArray[np.float64] = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    if params.top_k or params.top_p < 1:
        order = np.argsort(-weights, kind="stable")
        keep = len(order) if not params.top_k else min(params.top_k, len(order))
        if params.top_p < 1:
            reached = np.cumsum(weights[order[:keep]])
            keep = min(keep, int(np.searchsorted(reached, params.top_p * reached[-1])) + 1)
        weights[order[keep:]] = 0.0
        weights /= weights.sum()
    return weights


def choose(logits: npt.NDArray[np.floating], params: SamplingParams, position: int) -> int:
    """The token at ``position`` (of the whole sequence, prompt included).

    Args:
        logits: shape (V,).
        params: how to choose.
        position: index of the token to be chosen.
    """
    if params.temperature == 0:
        return int(np.argmax(logits))
    weights = probabilities(logits, params)
    uniform = np.random.Generator(np.random.Philox(key=[params.seed, position])).random()
    # Searching the running sum needs no set of weights that sums to exactly one.
    running = np.cumsum(weights)
    return int(np.searchsorted(running, uniform * running[-1], side="right"))
