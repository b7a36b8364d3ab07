"""Choosing the next token.

The random numbers depend on (seed + answer, position) alone, so an answer does not depend on what else the engine is
doing, on streaming, or on how the prompt was read. The steps, in this order; each sees what the ones before left:

1.  mask of the grammar, logit bias (OpenAI's API)
2.  repetition penalty (Keskar et al. 2019, CTRL), then presence and frequency penalties (OpenAI's API)
3.  DRY, "don't repeat yourself" (p-e-w, text-generation-webui pull request 5677)
    -- temperature 0 ends here with the largest logit, ties to the smaller id --
4.  top-n-sigma, on logits before the temperature (Tang et al. 2024)
5.  temperature and softmax, into integer weights
6.  top-k (Fan et al. 2018)
7.  locally typical (Meister et al. 2022)
8.  top-p, nucleus (Holtzman et al. 2019)
9.  min-p (Nguyen et al. 2024)
10. XTC, "exclude top choices" (p-e-w, text-generation-webui pull request 6335), by a random number of its own
11. the draw: the id at which the running sum of weights passes a uniform number

Mirostat 2 (Basu et al. 2020) takes the place of 4 and 6 to 10: tokens with more surprise than a bound are dropped, and
after each token the bound moves by ``eta`` times its surprise (before the drop, as in the paper) less ``tau``.

Probabilities are of the tokens left, renormalised. Every filter leaves at least one token. ``sampling/`` defines this
in numpy; native/sampler.cpp does the same arithmetic without sorting the vocabulary and draws the same tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cadran.engine.sampling.params import SamplingParams
from cadran.engine.sampling.reference import Mask, ReferenceSampler, probabilities, scored

if TYPE_CHECKING:
    from cadran.engine.native.sampling import NativeSampler
    from cadran.engine.request import Scored

__all__ = ["Sampler", "SamplingParams", "probabilities", "score"]


def compiled() -> bool:
    """Whether the compiled core is there."""
    from cadran.engine.native.library import available

    return available()


def _in_the_core(params: SamplingParams, prompt: Sequence[int], seed: int) -> "NativeSampler":
    from cadran.engine.native.sampling import NativeSampler  # loads the library

    return NativeSampler(params, prompt, seed)


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        params: how to choose.
        prompt: ids that the answer follows; penalties see them.
        answer: which answer to the prompt this is; it is drawn with ``seed + answer``.
        native: whether the compiled core does it; None where it is there.
    """

    def __init__(
        self, params: SamplingParams, prompt: Sequence[int], answer: int = 0, native: bool | None = None
    ) -> None:
        self.params = params
        seed = (params.seed + answer) % 2**64
        self._native: NativeSampler | None = None
        self._reference: ReferenceSampler | None = None
        if compiled() if native is None else native:
            self._native = _in_the_core(params, prompt, seed)
        else:
            self._reference = ReferenceSampler(params, prompt, seed)

    @property
    def handle(self) -> int | None:
        """Address of the core's ``cadran_sampler``, None when numpy chooses."""
        return None if self._native is None else self._native.handle

    def choose(
        self,
        logits: npt.NDArray[np.floating],
        position: int,
        mask: Mask | None = None,
        top: int = 0,
        logprobs: bool = False,
    ) -> "Scored":
        """The token at a position; nothing is recorded until ``accept``.

        Args:
            logits: shape (V,), float32.
            position: index of the token to be chosen in the whole sequence, prompt included.
            mask: shape (ceil(V / 32),); bit (id % 32) of word id // 32 is set where a token is allowed. Tokens beyond
                its words are forbidden.
            top: how many of the likeliest tokens to report, at most 64.
            logprobs: whether to report the log-probability of the chosen one; it is when ``top`` is asked for.

        Returns:
            The token; log-probabilities are natural logarithms and of the raw logits, before all steps above.

        Raises:
            UserError: a logit is NaN or plus infinity, or nothing is allowed.
        """
        from cadran.engine.request import Scored

        row = np.ascontiguousarray(logits, dtype=np.float32)
        if self._native is not None:
            if not (top or logprobs):
                return Scored(self._native.choose(row, position, mask))
            from cadran.engine.native.sampling import Choice

            wanted = Choice(logprobs=1, top=top)
            token = self._native.choose(row, position, mask, wanted)
            return Scored(token, wanted.logprob, wanted.alternatives())
        assert self._reference is not None
        token = self._reference.choose(row, position, mask)
        return scored(row, token, top) if top or logprobs else Scored(token)

    def accept(self, token: int) -> None:
        """Record a token of the answer, chosen or forced."""
        if self._native is not None:
            self._native.accept(token)
        elif self._reference is not None:
            self._reference.accept(token)


def score(logits: npt.NDArray[np.floating], token: int, top: int = 0, native: bool | None = None) -> "Scored":
    """How likely a given token was, such as one of the prompt's.

    Args:
        logits: raw, shape (V,), of the position before the token.
        token: its id.
        top: how many of the likeliest tokens to report, at most 64.
        native: whether the compiled core does it; None where it is there.

    Raises:
        UserError: a logit is NaN or plus infinity, or all are minus infinity.
    """
    from cadran.engine.request import Scored

    row = np.ascontiguousarray(logits, dtype=np.float32)
    if not (compiled() if native is None else native):
        return scored(row, token, top)
    from cadran.engine.native.sampling import score as native_score

    found = native_score(row, token, top)
    return Scored(token, found.logprob, found.alternatives())
