"""The answer of ``POST /v1/completions``, whole and streamed: one shape for both. Source: api-contracts 2."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cadran.engine.request import Scored
from cadran.serve.answering import sse
from cadran.serve.collected import Answer, Collected
from cadran.serve.events import Event, Failed, Finished, Prefilled, Reason, Spoke, Used
from cadran.serve.openai.errors import error_body
from cadran.serve.openai.logprobs import TextLogprobs, prompt_logprobs
from cadran.serve.openai.usage import FINISH, usage_body
from cadran.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Prompt:
    """One of the prompts, as far as the answer tells of it.

    Attributes:
        ids: as the model reads it.
        text: that is repeated before the answers; None for none.
        opening: how many of the ids the server put before the text.
    """

    ids: tuple[int, ...]
    text: str | None = None
    opening: int = 0


@dataclass(frozen=True, slots=True)
class CompletionHead:
    """What all chunks have in common, and what is told beside the texts.

    Attributes:
        id: of the completion.
        created: seconds since 1970.
        model: as the client called it.
        fingerprint: of the weights that answer.
        tokenizer: for the texts of tokens.
        prompts: in order.
        answers: to each prompt, that are given.
        drawn: to each prompt, that are made; of more than ``answers`` the likeliest are given.
        top: likeliest tokens to report; None for no log-probabilities.
        prompt_top: the same for the prompts, as vLLM tells them.
        ids: whether ids of tokens are told.
        scoring: nothing that was generated is told.
    """

    id: str
    created: int
    model: str
    fingerprint: str | None
    tokenizer: Tokenizer
    prompts: Sequence[Prompt] = field(default=(Prompt(()),))
    answers: int = 1
    drawn: int = 1
    top: int | None = None
    prompt_top: int | None = None
    ids: bool = False
    scoring: bool = False

    @property
    def base(self) -> dict[str, Any]:
        """The beginning of every object."""
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }

    def finish(self, reason: Reason) -> str:
        """Why an answer ended, in the API's words."""
        return "length" if self.scoring else FINISH[reason]

    def used(self, used: Used) -> dict[str, Any]:
        """What it took."""
        return usage_body(replace(used, generated_tokens=0) if self.scoring else used)


def completion_body(head: CompletionHead, collected: Collected) -> dict[str, Any]:
    """A whole answer."""
    choices: list[dict[str, Any]] = []
    for number, prompt in enumerate(head.prompts):
        first = number * head.drawn
        answers = collected.answers[first : first + head.drawn]
        if head.drawn > head.answers:
            answers = sorted(answers, key=_likelihood, reverse=True)[: head.answers]
        scored = collected.prompts.get(first, ())
        choices += [_choice(head, len(choices) + place, prompt, scored, of) for place, of in enumerate(answers)]
    return head.base | {"choices": choices, "usage": head.used(collected.used)}


def _likelihood(answer: Answer) -> float:
    """Mean log-probability of a token; an empty answer comes last."""
    logprobs = [scored.logprob for scored in answer.tokens if scored.logprob is not None]
    return sum(logprobs) / len(logprobs) if logprobs else -math.inf


def _choice(
    head: CompletionHead, index: int, prompt: Prompt, scored: Sequence[Scored], answer: Answer
) -> dict[str, Any]:
    text, tokens = ("", []) if head.scoring else (answer.text, answer.tokens)
    logprobs = None
    if head.top is not None:
        told = TextLogprobs(head.tokenizer, head.top)
        echo = told.echo(scored[prompt.opening :], prompt.text) if prompt.text is not None else {}
        logprobs = {name: echo.get(name, []) + values for name, values in told.more(tokens).items()}
    choice: dict[str, Any] = {
        "index": index,
        "text": (prompt.text or "") + text,
        "finish_reason": head.finish(answer.reason),
        "logprobs": logprobs,
    }
    if head.prompt_top is not None:
        choice["prompt_logprobs"] = prompt_logprobs(head.tokenizer, scored, head.prompt_top)
    if head.ids:
        choice |= {"prompt_token_ids": list(prompt.ids), "token_ids": [token.token for token in tokens]}
    return choice


class CompletionStream:
    """A ``Translator``.

    Args:
        head: of all chunks; as many answers are given as are made.
        usage: whether to end with a chunk of usage.
    """

    media_type = "text/event-stream"

    def __init__(self, head: CompletionHead, usage: bool) -> None:
        self._head, self._usage = head, usage
        self._told: dict[int, TextLogprobs] = {}

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        head = self._head
        match event:
            case Prefilled(_, scored, first):
                yield from self._echo(first, scored)
            case Spoke(index, text, tokens):
                if not head.scoring and (text or (tokens and (head.top is not None or head.ids))):
                    logprobs = None
                    if head.top is not None and tokens:
                        logprobs = self._logprobs(index).more(tokens)
                    yield self._chunk(index, text, logprobs, ids=[scored.token for scored in tokens])
            case Finished(index, reason):
                yield self._chunk(index, "", finish=head.finish(reason))
            case Used():
                if self._usage:
                    yield sse(head.base | {"choices": [], "usage": head.used(event)})
                yield sse("[DONE]")
            case Failed(error):
                yield sse(error_body(error))
            case _:
                pass

    def ping(self) -> bytes:
        """A comment."""
        return b": ping\n\n"

    def _echo(self, first: int, scored: Sequence[Scored]) -> Iterator[bytes]:
        head = self._head
        prompt = head.prompts[first // head.answers]
        if prompt.text is None and not head.ids:
            return
        for index in range(first, first + head.answers):
            logprobs = None
            if head.top is not None and prompt.text is not None:
                logprobs = self._logprobs(index).echo(scored[prompt.opening :], prompt.text)
            yield self._chunk(index, prompt.text or "", logprobs, prompt=prompt)

    def _logprobs(self, index: int) -> TextLogprobs:
        if index not in self._told:
            self._told[index] = TextLogprobs(self._head.tokenizer, self._head.top or 0)
        return self._told[index]

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, list[Any]] | None = None,
        finish: str | None = None,
        ids: Sequence[int] = (),
        prompt: Prompt | None = None,
    ) -> bytes:
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        if self._head.ids:
            choice["token_ids"] = list(ids)
            if prompt is not None:
                choice["prompt_token_ids"] = list(prompt.ids)
        chunk = self._head.base | {"choices": [choice]}
        return sse(chunk | {"usage": None} if self._usage else chunk)
