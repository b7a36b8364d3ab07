"""How many log-probabilities one request may have: they are kept until its end, and are most of what it keeps.

Every token brings its own and those of the likeliest ones, so that 128 answers of 8,000 tokens with 20 each would be
20 million: gigabytes here, and more in the answer's JSON.
"""

from collections.abc import Sequence

from cadran.serve.api_error import ApiError
from cadran.serve.generation import Generation

MOST = 200_000
"""Log-probabilities of one request, about 500 bytes each until its answer is sent; 20 for each of 9,500 tokens."""
LEAST = 1024
"""Tokens that an answer without a stated length is given at least, or it is not begun."""


def limit_scores(generations: Sequence[Generation]) -> None:
    """See that the log-probabilities of a request are not too many; answers without a stated length end where they are.

    Args:
        generations: all of the request, none of them started.

    Raises:
        ApiError: they are too many.
    """
    begun = generations[0].request  # the others differ in their prompts only
    if not (begun.logprobs or begun.top or begun.prompt_logprobs):
        return
    each = 1 + begun.top
    read = sum(generation.prompt_tokens for generation in generations) * each if begun.prompt_logprobs else 0
    answers = begun.answers * len(generations) if begun.logprobs or begun.top else 0
    if read + answers * each > MOST:
        raise ApiError(
            "invalid",
            f"the prompts would have {read} log-probabilities and {MOST} are kept at once; send fewer or shorter ones",
            param="prompt_logprobs",
        )
    written = sum(generation.room for generation in generations) * begun.answers * each
    if not answers or read + written <= MOST:
        return
    fitting = (MOST - read) // (answers * each)
    if begun.max_tokens is None and fitting >= LEAST:
        for generation in generations:
            generation.room = min(generation.room, fitting)
        return
    raise ApiError(
        "invalid",
        f"the answers could have {read + written} log-probabilities and {MOST} are kept at once; ask for max_tokens of "
        f"{fitting} or less, or for fewer answers or top_logprobs",
        param="max_tokens",
    )
