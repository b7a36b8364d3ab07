"""The answer of ``POST /v1/chat/completions``, whole and streamed. Source: api-contracts 1.2 and 1.3.

In a stream the role comes once, ids and names of calls come once, and no content is null: accumulators concatenate.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.engine.request import Scored
from cadran.serve.answering import sse
from cadran.serve.collected import Answer, Collected
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    Event,
    Failed,
    Finished,
    Reason,
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.openai.errors import error_body
from cadran.serve.openai.logprobs import chat_logprobs, prompt_logprobs
from cadran.serve.openai.usage import FINISH, usage_body
from cadran.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ChatHead:
    """What all chunks have in common.

    Attributes:
        id: of the completion.
        created: seconds since 1970.
        model: as the client called it.
        fingerprint: of the weights that answer.
        top: likeliest tokens to report; None for no log-probabilities.
        tokenizer: for their texts.
        legacy: the client knows functions and no tools: calls are told as ``function_call``.
        prompt_ids: of the prompt, when ids of tokens are wanted, else None.
        prompt_top: likeliest tokens to report with those of the prompt; None for none.
    """

    id: str
    created: int
    model: str
    fingerprint: str | None
    top: int | None
    tokenizer: Tokenizer
    legacy: bool = False
    prompt_ids: tuple[int, ...] | None = None
    prompt_top: int | None = None

    def finish(self, reason: Reason) -> str:
        """Why an answer ended, in the API's words."""
        return "function_call" if self.legacy and reason == "tools" else FINISH[reason]


def chat_body(head: ChatHead, collected: Collected) -> dict[str, Any]:
    """A whole answer."""
    body: dict[str, Any] = {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": [_choice(head, index, answer) for index, answer in enumerate(collected.answers)],
        "usage": usage_body(collected.used),
    }
    if head.prompt_ids is not None:
        body["prompt_token_ids"] = list(head.prompt_ids)
    if head.prompt_top is not None:
        body["prompt_logprobs"] = prompt_logprobs(head.tokenizer, collected.prompts.get(0, ()), head.prompt_top)
    return body


def _choice(head: ChatHead, index: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if not answer.calls:
        message["content"] = answer.text
    if answer.reasoning:
        message |= {"reasoning_content": answer.reasoning, "reasoning": answer.reasoning}
    calls = [
        {"id": f"call_{call.id}", "type": "function",
         "function": {"name": call.name, "arguments": call.arguments or "{}"}}
        for call in answer.calls
    ]  # fmt: skip
    if calls and head.legacy:
        message["function_call"] = calls[0]["function"]
    elif calls:
        message["tool_calls"] = calls
    logprobs = None
    if head.top is not None:
        logprobs = {"content": chat_logprobs(head.tokenizer, answer.tokens, head.top), "refusal": None}
    choice = {"index": index, "finish_reason": head.finish(answer.reason), "logprobs": logprobs, "message": message}
    return choice if head.prompt_ids is None else choice | {"token_ids": [scored.token for scored in answer.tokens]}


class ChatStream:
    """A ``Translator``.

    Args:
        head: of all chunks.
        answers: how many there will be.
        usage: whether to end with a chunk of usage.
    """

    media_type = "text/event-stream"

    def __init__(self, head: ChatHead, answers: int, usage: bool) -> None:
        self._head, self._answers, self._usage = head, answers, usage
        self._bare: set[tuple[int, int]] = set()  # calls of which no argument was told yet

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        match event:
            case Admitted():
                for index in range(self._answers):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
            case Spoke(index, text, tokens):
                if text or (tokens and (self._head.top is not None or self._head.prompt_ids is not None)):
                    yield self._chunk(index, {"content": text}, tokens=tokens)
            case Reasoned(index, text):
                yield self._chunk(index, {"reasoning_content": text, "reasoning": text})
            case CallBegan(index, call, id, name):
                self._bare.add((index, call))
                yield self._call(index, call, {"name": name, "arguments": ""}, id)
            case CallArguments(index, call, fragment):
                if fragment:
                    self._bare.discard((index, call))
                    yield self._call(index, call, {"arguments": fragment})
            case Finished(index, reason):
                for of, call in sorted(self._bare):
                    if of == index:
                        yield self._call(index, call, {"arguments": "{}"})
                self._bare = {key for key in self._bare if key[0] != index}
                yield self._chunk(index, {}, self._head.finish(reason))
            case Used():
                if self._usage:
                    yield sse(self._base() | {"choices": [], "usage": usage_body(event)})
                yield sse("[DONE]")
            case Failed(error):
                yield sse(error_body(error))
            case _:
                pass

    def ping(self) -> bytes:
        """A comment."""
        return b": ping\n\n"

    def _base(self) -> dict[str, Any]:
        head = self._head
        return {
            "id": head.id,
            "object": "chat.completion.chunk",
            "created": head.created,
            "model": head.model,
            "system_fingerprint": head.fingerprint,
        }

    def _call(self, index: int, call: int, function: dict[str, Any], id: str | None = None) -> bytes:
        if self._head.legacy:
            return self._chunk(index, {"function_call": function})
        began = {} if id is None else {"id": f"call_{id}", "type": "function"}
        return self._chunk(index, {"tool_calls": [{"index": call, **began, "function": function}]})

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None, tokens: Sequence[Scored] = ()
    ) -> bytes:
        head = self._head
        logprobs = None
        if head.top is not None and tokens:
            logprobs = {"content": chat_logprobs(head.tokenizer, tokens, head.top), "refusal": None}
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = self._base() | {"choices": [choice]}
        if head.prompt_ids is not None:
            choice["token_ids"] = [scored.token for scored in tokens]
            if "role" in delta:
                chunk["prompt_token_ids"] = list(head.prompt_ids)
        return sse(chunk | {"usage": None} if self._usage else chunk)
