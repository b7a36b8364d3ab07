"""Everything that changes logits before the softmax: mask, bias, penalties, DRY. Numpy, in doubles.

The definition that native/sampler.cpp equals; sources and order are in ``cadran.engine.sampler``.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cadran.engine.sampling.params import SamplingParams
from cadran.errors import UserError

Floats = npt.NDArray[np.float64]
LONGEST_MATCH = 50  # tokens of a repetition that DRY counts, as its first implementation does


def adjusted(
    logits: npt.NDArray[np.float32],
    params: SamplingParams,
    prompt: Sequence[int] = (),
    answer: Sequence[int] = (),
    mask: npt.NDArray[np.uint32] | None = None,
) -> Floats:
    """Logits after mask, bias, penalties and DRY.

    Args:
        logits: shape (V,).
        params: how to choose.
        prompt: ids that the answer follows.
        answer: ids chosen so far.
        mask: shape (ceil(V / 32),); bit (id % 32) of word id // 32 is set where a token is allowed.

    Returns:
        Shape (V,), minus infinity where a token is forbidden.

    Raises:
        UserError: the bias names a token beyond the vocabulary.
    """
    values = logits.astype(np.float64)
    if mask is not None:
        values[~allowed(mask, len(values))] = -np.inf
    for token, bias in params.logit_bias:
        if token >= len(values):
            raise UserError(
                f"the logit bias names token {token} and the vocabulary ends at {len(values) - 1}; leave it out"
            )
        values[token] += bias
    history = [*prompt, *answer]
    start = max(0, len(history) - params.penalty_window) if params.penalty_window else 0
    window = history[start:]
    penalise(values, window, window[max(0, len(prompt) - start) :], params)
    if params.dry_multiplier > 0:
        for token, length in repetitions(window, frozenset(params.dry_breakers)).items():
            if length >= params.dry_allowed_length and 0 <= token < len(values):
                penalty = params.dry_multiplier
                for _ in range(length - params.dry_allowed_length):
                    penalty *= params.dry_base
                values[token] -= penalty
    return values


def allowed(mask: npt.NDArray[np.uint32], width: int) -> npt.NDArray[np.bool_]:
    """The mask as booleans, shape (width,); tokens beyond its words are forbidden."""
    bits = np.unpackbits(mask.astype("<u4").view(np.uint8), bitorder="little")[:width].astype(np.bool_)
    return np.pad(bits, (0, width - len(bits)))


def penalise(values: Floats, window: Sequence[int], answered: Sequence[int], params: SamplingParams) -> None:
    """Repetition penalty on the tokens of the window, presence and frequency penalties on those of the answer in it.

    Source: Keskar et al. 2019 (CTRL), section 4.1, with the sign of the logit respected; OpenAI's API reference.
    """
    times = Counter(answered)
    for token in set(window):
        if not 0 <= token < len(values):
            continue
        value = values[token]
        value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        if times[token]:
            value -= params.presence_penalty + params.frequency_penalty * float(times[token])
        values[token] = value


def repetitions(window: Sequence[int], breakers: frozenset[int]) -> dict[int, int]:
    """Tokens that would go on with a repetition of the window's end, and how long the longest of each is.

    A repetition holds no breaker, and a breaker never goes on with one.
    """
    longest: dict[int, int] = {}
    if not window or window[-1] in breakers:
        return longest
    for index in range(len(window) - 1):
        following = window[index + 1]
        if window[index] != window[-1] or following in breakers:
            continue
        length = 1
        while length < LONGEST_MATCH and length <= index:
            token = window[index - length]
            if token != window[-1 - length] or token in breakers:
                break
            length += 1
        longest[following] = max(longest.get(following, 0), length)
    return longest
