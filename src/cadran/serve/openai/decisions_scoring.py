"""How likely each of some answers is: their exact log-probabilities, with the prompt that they share read once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cadran.engine.completion import Completion
from cadran.engine.engine import Engine
from cadran.errors import UserError
from cadran.serve.api_error import ApiError

AT_ONCE = 32
"""Most candidates that are read together."""


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """What became of the candidates of one question.

    Attributes:
        logprobs: of each candidate with its end, nats.
        tokens: of the prompt and all candidates.
        cached: of the prompt, that were remembered from before.
    """

    logprobs: list[float]
    tokens: int
    cached: int

    @property
    def probabilities(self) -> list[float]:
        """Softmax over the candidates: how likely each is, given that it is one of them."""
        most = max(self.logprobs)
        weights = [math.exp(logprob - most) for logprob in self.logprobs]
        return [weight / sum(weights) for weight in weights]


async def score_candidates(engine: Engine, prompt: Sequence[int], candidates: Sequence[str]) -> CandidateScores:
    """The log-probability of every candidate as the whole answer to a prompt.

    The token that ends an answer is part of each, or short candidates would be favoured. The first one reads the
    prompt; the others find it in the prefix cache and run as batches.

    Args:
        engine: with a chat template.
        prompt: ids, up to where an answer begins.
        candidates: texts.

    Raises:
        ApiError: the prompt leaves no room for a candidate.
    """
    assert engine.renderer is not None
    end = engine.renderer.stop_ids[0]
    answers = [[*engine.tokenizer.encode(candidate), end] for candidate in candidates]
    longest = len(prompt) + max(map(len, answers))
    if longest >= engine.context:
        problem = f"a question has {longest} tokens with its answer and {engine.context - 1} fit; shorten the input"
        raise ApiError("too_long", problem)
    logprobs: list[float] = []
    cached = 0
    try:
        first, cached = await _read(_begun(engine, prompt, answers[0]), len(prompt))
        logprobs.append(first)
        for start in range(1, len(answers), AT_ONCE):
            batch = [_begun(engine, prompt, answer) for answer in answers[start : start + AT_ONCE]]
            try:
                for completion in batch:
                    logprobs.append((await _read(completion, len(prompt)))[0])
            finally:
                for completion in batch:
                    completion.close()
    except UserError as error:
        raise ApiError.of(error) from error
    return CandidateScores(logprobs, len(prompt) + sum(map(len, answers)), min(cached, len(prompt)))


def _begun(engine: Engine, prompt: Sequence[int], answer: Sequence[int]) -> Completion:
    return engine.stream(
        [*prompt, *answer], max_tokens=1, temperature=0, stop_ids=(), prompt_logprobs=True, scored_from=len(prompt)
    )


async def _read(completion: Completion, prompt: int) -> tuple[float, int]:
    """The log-probability of what follows the prompt, and how much of the prompt was remembered."""
    total, cached = 0.0, 0
    async for event in completion:
        total += sum(_finite(scored.logprob) for scored in event.prompt[prompt:])
        cached = event.cached or cached
    return total, cached


def _finite(logprob: float | None) -> float:
    return -1e4 if logprob is None else max(logprob, -1e4)
