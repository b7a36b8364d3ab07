"""The answers of ``/api/chat`` and ``/api/generate``, whole and streamed. Source: api-contracts 7.

A line is a JSON object, there are no empty ones, and durations are nanoseconds. Calls of tools come whole.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.engine.request import Scored
from cadran.serve.answering import ndjson
from cadran.serve.collected import Collected
from cadran.serve.events import (
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Reason,
    Reasoned,
    Spoke,
    Used,
)
from cadran.serve.ollama.errors import error_body
from cadran.serve.openai.logprobs import chat_logprobs
from cadran.tokenizer.tokenizer import Tokenizer

DONE: dict[Reason, str] = {
    "eos": "stop", "stop_string": "stop", "length": "length", "context": "length", "tools": "stop", "cancelled": "stop",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Head:
    """What all lines of an answer have in common.

    Attributes:
        model: as the client called it.
        chat: whether messages were asked about, rather than a prompt continued.
        now: the time as ``created_at`` tells it.
        tokenizer: for the texts of tokens.
        top: likeliest tokens to tell; None for no log-probabilities.
        prompt: ids of it where the next request may go on from them, None where it may not.
        end: id that ends an answer in those, None where nothing does.
    """

    model: str
    chat: bool
    now: Callable[[], str]
    tokenizer: Tokenizer
    top: int | None = None
    prompt: tuple[int, ...] | None = None
    end: int | None = None

    def line(self, text: str, done: bool = False, **more: Any) -> dict[str, Any]:
        """One object; ``thinking`` and ``tool_calls`` go where they belong."""
        return _line(self.model, self.chat, self.now(), text, done, more)

    def logprobs(self, tokens: Sequence[Scored]) -> dict[str, Any]:
        """``logprobs``, when they are wanted and there are some."""
        if self.top is None or not tokens:
            return {}
        return {"logprobs": chat_logprobs(self.tokenizer, tokens, self.top)}

    def last(self, used: Used, reason: Reason, text: str) -> dict[str, Any]:
        """What the last object has more than the others."""
        told: dict[str, Any] = {"done_reason": DONE[reason]}
        if self.prompt is not None:
            end = [self.end] if self.end is not None and DONE[reason] == "stop" else []
            told["context"] = [*self.prompt, *self.tokenizer.encode(text), *end]
        return told | {
            "total_duration": _nanoseconds(used.queued + used.loaded + used.seconds),
            "load_duration": _nanoseconds(used.loaded),
            "prompt_eval_count": used.prompt_tokens,
            "prompt_eval_duration": _nanoseconds(used.first_token),
            "eval_count": used.generated_tokens,
            "eval_duration": _nanoseconds(used.seconds - used.first_token),
        }


def idle_body(model: str, chat: bool, created_at: str, reason: str) -> dict[str, Any]:
    """The answer to a request that only opens a model or closes it."""
    return _line(model, chat, created_at, "", True, {"done_reason": reason})


def whole_body(head: Head, collected: Collected) -> dict[str, Any]:
    """A whole answer."""
    answer = collected.answers[0]
    more: dict[str, Any] = {"thinking": answer.reasoning} if answer.reasoning else {}
    calls = [_call(n, call.id, call.name, call.arguments) for n, call in enumerate(answer.calls) if call.whole]
    if calls:
        more["tool_calls"] = calls
    more |= head.logprobs(answer.tokens)
    return head.line(answer.text, True, **more, **head.last(collected.used, answer.reason, answer.text))


class LineStream:
    """A ``Translator``.

    Args:
        head: of all lines.
    """

    media_type = "application/x-ndjson"

    def __init__(self, head: Head) -> None:
        self._head = head
        self._said: list[str] = []
        self._calls: dict[int, tuple[str, str, list[str]]] = {}
        self._reason: Reason = "cancelled"

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        head = self._head
        match event:
            case Spoke(_, text, tokens):
                logprobs = head.logprobs(tokens)
                if head.prompt is not None:
                    self._said.append(text)
                if text or logprobs:
                    yield ndjson(head.line(text, **logprobs))
            case Reasoned(_, text) if text:
                yield ndjson(head.line("", thinking=text))
            case CallBegan(_, number, id, name):
                self._calls[number] = id, name, []
            case CallArguments(_, number, fragment):
                self._calls[number][2].append(fragment)
            case CallEnded(_, number):
                id, name, fragments = self._calls.pop(number)
                yield ndjson(head.line("", tool_calls=[_call(number, id, name, "".join(fragments))]))
            case Finished(_, reason):
                self._reason = reason
            case Used():
                yield ndjson(head.line("", True, **head.last(event, self._reason, "".join(self._said))))
            case Failed(error):
                yield ndjson(error_body(error))
            case _:
                pass

    def ping(self) -> bytes:
        """Nothing: an empty line is no JSON."""
        return b""


def _line(model: str, chat: bool, created_at: str, text: str, done: bool, more: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"model": model, "created_at": created_at}
    if chat:
        inner = {name: more.pop(name) for name in ("thinking", "tool_calls") if name in more}
        told["message"] = {"role": "assistant", "content": text, **inner}
    else:
        told["response"] = text
    return told | {"done": done} | more


def _call(number: int, id: str, name: str, arguments: str) -> dict[str, Any]:
    try:
        content = json.loads(arguments or "{}", parse_float=_finite, parse_constant=_finite)
    except ValueError:
        content = {}
    if not isinstance(content, dict):
        content = {}
    return {"id": f"call_{id}", "function": {"index": number, "name": name, "arguments": content}}


def _finite(text: str) -> float | None:
    """A number that JSON can hold: a model may write 1e999, which Python reads as infinity."""
    number = float(text)
    return number if math.isfinite(number) else None


def _nanoseconds(seconds: float) -> int:
    return max(round(seconds * 1e9), 0)
