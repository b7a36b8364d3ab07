"""The answer of ``POST /v1/chat/completions``, whole and streamed. Source: api-contracts 1.2 and 1.3.

In a stream the role comes once, ids and names of calls come once, and no content is null: accumulators concatenate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cadran.serve.answering import sse
from cadran.serve.collected import Answer, Collected
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    Event,
    Failed,
    Finished,
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.openai.errors import error_body
from cadran.serve.openai.logprobs import chat_logprobs
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
    """

    id: str
    created: int
    model: str
    fingerprint: str | None
    top: int | None
    tokenizer: Tokenizer


def chat_body(head: ChatHead, collected: Collected) -> dict[str, Any]:
    """A whole answer."""
    return {
        "id": head.id,
        "object": "chat.completion",
        "created": head.created,
        "model": head.model,
        "system_fingerprint": head.fingerprint,
        "choices": [_choice(head, index, answer) for index, answer in enumerate(collected.answers)],
        "usage": usage_body(collected.used),
    }


def _choice(head: ChatHead, index: int, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if not answer.calls:
        message["content"] = answer.text
    if answer.reasoning:
        message |= {"reasoning_content": answer.reasoning, "reasoning": answer.reasoning}
    if answer.calls:
        message["tool_calls"] = [
            {"id": f"call_{call.id}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in answer.calls
        ]
    logprobs = None
    if head.top is not None:
        logprobs = {"content": chat_logprobs(head.tokenizer, answer.tokens, head.top), "refusal": None}
    return {"index": index, "finish_reason": FINISH[answer.reason], "logprobs": logprobs, "message": message}


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

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        match event:
            case Admitted():
                for index in range(self._answers):
                    yield self._chunk(index, {"role": "assistant", "content": ""})
            case Spoke(index, text, tokens):
                logprobs = None
                if self._head.top is not None and tokens:
                    content = chat_logprobs(self._head.tokenizer, tokens, self._head.top)
                    logprobs = {"content": content, "refusal": None}
                if text or logprobs:
                    yield self._chunk(index, {"content": text}, logprobs=logprobs)
            case Reasoned(index, text):
                yield self._chunk(index, {"reasoning_content": text, "reasoning": text})
            case CallBegan(index, call, id, name):
                began = {"index": call, "id": f"call_{id}", "type": "function"}
                yield self._chunk(index, {"tool_calls": [began | {"function": {"name": name, "arguments": ""}}]})
            case CallArguments(index, call, fragment):
                yield self._chunk(index, {"tool_calls": [{"index": call, "function": {"arguments": fragment}}]})
            case Finished(index, reason):
                yield self._chunk(index, {}, FINISH[reason])
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

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None = None, logprobs: dict[str, Any] | None = None
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk = self._base() | {"choices": [choice]}
        return sse(chunk | {"usage": None} if self._usage else chunk)
