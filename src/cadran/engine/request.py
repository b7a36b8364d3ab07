"""What is asked of the engine, and what comes back token by token."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cadran.engine.grammar import Grammar
from cadran.engine.sampler import SamplingParams
from cadran.errors import UserError

Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be continued, once or several times.

    Attributes:
        id: chosen by the caller, unlike any other that is under way.
        prompt: ids, at least one.
        params: how to choose; ``max_tokens`` of each answer.
        stop_ids: ids that end an answer and are not part of it.
        answers: how many continuations; answer i is drawn with ``seed + i``, greedy ones are equal.
        grammar: what the answer must match, or None.
        top: how many of the likeliest tokens to report with each token, 0 to 64; log-probabilities of the chosen ones
            are reported when ``logprobs``.
        logprobs: whether log-probabilities are wanted.
        prompt_logprobs: whether those of the prompt's own tokens are wanted too.
        scored_from: index of the first of these that is; what stands before it may be remembered and not be read.
        guess: ids that the answer will probably contain (the ``prediction`` of OpenAI), as drafts.
        adapter: the number of a low-rank adapter that the runner knows, 0 for the model as it is.
    """

    id: int
    prompt: tuple[int, ...]
    params: SamplingParams = field(default_factory=SamplingParams)
    stop_ids: tuple[int, ...] = ()
    answers: int = 1
    grammar: Grammar | None = None
    top: int = 0
    logprobs: bool = False
    prompt_logprobs: bool = False
    scored_from: int = 1
    guess: tuple[int, ...] = ()
    adapter: int = 0


@dataclass(frozen=True, slots=True)
class Scored:
    """A token and how likely it was.

    Attributes:
        token: its id.
        logprob: natural logarithm of its probability before temperature and filters, None where there is none (the
            first token of a prompt) or none was asked for.
        top: the likeliest tokens and their log-probabilities, likeliest first.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Produced:
    """What one step of the scheduler brought to one answer.

    Attributes:
        request: id of the request.
        answer: which of its answers.
        tokens: new tokens, stop ids left out.
        finish: why the answer ended, None while it goes on.
        message: what went wrong, with ``error``.
        prompt: the prompt's tokens scored, once, with the first ``Produced`` of a request that asked for it.
        cached: prompt tokens that were not read because their keys and values were there.
    """

    request: int
    answer: int
    tokens: tuple[Scored, ...] = ()
    finish: Finish | None = None
    message: str | None = None
    prompt: tuple[Scored, ...] = ()
    cached: int = 0


def check_asked(ids: Sequence[int], answers: int, top: int, context: int, vocabulary: int) -> None:
    """Whether a model can be asked that.

    Args:
        ids: of the prompt.
        answers: how many are wanted.
        top: how many of the likeliest tokens.
        context: most tokens of prompt and answer together.
        vocabulary: how many ids there are.

    Raises:
        UserError: it cannot; both numbers are named.
    """
    if not ids:
        raise UserError("the prompt is empty and this model knows no beginning of a text; give it a few words")
    if len(ids) >= context:
        raise UserError(f"the prompt has {len(ids)} tokens and this model reads {context} with its answer; shorten it")
    if not 0 <= min(ids) <= max(ids) < vocabulary:
        raise UserError(f"the prompt has ids outside 0 to {vocabulary - 1}; encode it anew")
    if answers < 1:
        raise UserError(f"answers is {answers}; ask for one at least")
    if not 0 <= top <= 64:
        raise UserError(f"top is {top}; give a number from 0 to 64")
