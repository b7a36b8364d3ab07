"""Answers that the current policy gives to prompts, drawn by the engine and kept as ids: text is never tokenised again.

Every token's log-probability is the engine's own, of the distribution that the token was drawn from: the logits divided
by the temperature, nothing cut off. The engine itself reports log-probabilities of raw logits, so the division is done
before it sees them, and it draws at temperature 1: its report is then what a ratio must be compared with.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cadran.align.prompt_loader import RolloutPrompt
from cadran.align.rollout_engine import RolloutSource
from cadran.engine.forwarding_runner import ForwardingRunner
from cadran.engine.request import Request
from cadran.engine.runner import Batch, Ints, Runner
from cadran.engine.sampler import Sampler, SamplingParams
from cadran.engine.scheduler import Scheduler
from cadran.errors import UserError
from cadran.tokenizer.tokenizer import Tokenizer

Decode = Callable[[Sequence[int]], str]
"""From ids to text; any id that the model has a row for may come."""


@dataclass(frozen=True, slots=True)
class RolloutParams:
    """How answers are drawn.

    There is no top-p, top-k or penalty here: tokens would be drawn from another distribution than the one whose
    log-probability the policy gradient is of.

    Attributes:
        max_tokens: most tokens of an answer, its stop token included.
        stop_ids: ids that end an answer and are its last token.
        temperature: divides the logits; 0 takes the most likely token (for examinations; log-probabilities are then
            those at temperature 1).

    Raises:
        UserError: a value that cannot be.
    """

    max_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; give a positive number, e.g. max_tokens=64")
        if not 0 <= self.temperature <= 10:
            raise UserError(f"the temperature is {self.temperature}; give a number from 0 to 10, e.g. temperature=1")
        if not self.stop_ids:
            raise UserError("no token ends an answer; name the stop tokens of the model's chat template")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One answer.

    Attributes:
        prompt: index of its prompt in the batch.
        ids: of the answer, at least one, the stop token included where it ended by itself.
        ended: whether it ended by itself; else it was cut by ``max_tokens`` or the context.
        engine_logprobs: of every id, at the sampling temperature, natural logarithms.
        text: without the stop token.
    """

    prompt: int
    ids: tuple[int, ...]
    ended: bool
    engine_logprobs: tuple[float, ...]
    text: str


def decoder(tokenizer: Tokenizer) -> Decode:
    """A tokenizer's decoding, special tokens written out; rows of the embedding that no token has say nothing."""
    return lambda ids: tokenizer.decode(id for id in ids if id < tokenizer.vocabulary_size)


def prompt_seed(seed: int, step: int, prompt: int) -> int:
    """Seed of the answers to a prompt; answer i is drawn with this plus i, at each position with its own number."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{step}:{prompt}".encode()).digest()[:8], "little")


def sample_rollouts(
    source: RolloutSource,
    prompts: Sequence[RolloutPrompt],
    answers_each: int,
    params: RolloutParams,
    seed: int,
    step: int,
    *,
    decode: Decode,
) -> list[Rollout]:
    """Draw answers with the weights as they are now.

    The random numbers are a pure function of (seed, step, index of the prompt, index of the answer, position), so an
    answer depends neither on the other prompts nor on the order in which the engine reads them.

    Args:
        source: who computes.
        prompts: what to answer.
        answers_each: how many answers to each.
        params: how to draw.
        seed: of the training.
        step: or iteration, whatever tells one draw from the next.
        decode: ids to text, e.g. ``decoder(tokenizer)``; ids are kept beside the text and never made from it.

    Returns:
        ``answers_each`` answers to prompt 0, to prompt 1, ...

    Raises:
        UserError: a prompt leaves no room for an answer, or the model gives logits that are not numbers.
    """
    if answers_each < 1:
        raise UserError(f"{answers_each} answers to a prompt are not possible; set answers=8")
    longest = max((len(prompt.ids) for prompt in prompts), default=0)
    drawn: dict[tuple[int, int], list[tuple[int, float]]] = {
        (number, answer): [] for number in range(len(prompts)) for answer in range(answers_each)
    }
    stops = frozenset(params.stop_ids)
    with source.runner(len(prompts) * answers_each, longest + params.max_tokens) as runner:
        scheduler = Scheduler(_Tempered(runner, params.temperature or 1.0))
        sharpness = 1.0 if params.temperature else 0.0
        sampling = SamplingParams(temperature=sharpness, top_p=1.0, max_tokens=params.max_tokens)
        for number, prompt in enumerate(prompts):
            # No stop ids: the engine would end the answer without a word of the stop token's log-probability.
            drawn_with = replace(sampling, seed=prompt_seed(seed, step, number))
            scheduler.add(Request(number, tuple(prompt.ids), drawn_with, answers=answers_each, logprobs=True))
        while not scheduler.idle:
            for produced in scheduler.step():
                if produced.finish == "error":
                    raise UserError(f"the rollouts failed: {produced.message}")
                tokens = drawn[produced.request, produced.answer]
                for scored in produced.tokens:
                    assert scored.logprob is not None
                    tokens.append((scored.token, scored.logprob))
                    if scored.token in stops:
                        scheduler.finish(produced.request, produced.answer)
                        break
    return [_rollout(prompt, tokens, stops, decode) for (prompt, _), tokens in drawn.items()]


def _rollout(prompt: int, tokens: list[tuple[int, float]], stops: frozenset[int], decode: Decode) -> Rollout:
    ids = tuple(token for token, _ in tokens)
    ended = ids[-1] in stops
    text = decode(ids[:-1] if ended else ids)
    return Rollout(prompt, ids, ended, tuple(logprob for _, logprob in tokens), text)


class _Tempered(ForwardingRunner):
    """A runner whose logits are divided by a temperature; the rest is another's."""

    def __init__(self, runner: Runner, temperature: float) -> None:
        super().__init__(runner)
        self._temperature = temperature

    def step(self, batch: Batch) -> npt.NDArray[np.float32]:
        """See ``Runner.step``."""
        logits = self._runner.step(batch)
        return logits if self._temperature == 1 else logits / np.float32(self._temperature)

    def burst(self, batch: Batch, samplers: list[Sampler], stops: list[tuple[int, ...]], steps: int) -> Ints:
        """One token of each; the runner's own burst would draw from logits that were not divided."""
        logits = self.step(batch)
        chosen = np.empty((1, len(samplers)), np.int32)
        for row, sampler in enumerate(samplers):
            chosen[0, row] = token = sampler.choose(logits[row], int(batch.positions[row]) + 1).token
            sampler.accept(token)
        return chosen
