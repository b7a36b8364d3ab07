"""The stream of ``POST /v1/messages``. Source: api-contracts 5.3.

``message_start`` waits until the prompt was read. It carries the usage, and clients take the number of input tokens
from there: the accumulators of older clients never look again, and how many of the tokens were cached is not known
before. Sent early it would have to guess; it never goes missing, whatever the model does next. Until then comments keep
the connection alive: the SDKs pass over ``ping`` as well, but one accumulator or another refuses any event before
``message_start``, and none sees a comment. Afterwards ``ping`` is an event, as the API has it.

One block is open at a time.
"""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from cadran.serve.answering import sse
from cadran.serve.anthropic.errors import error_body
from cadran.serve.anthropic.messages_request import Shown
from cadran.serve.api_error import ApiError
from cadran.serve.events import (
    Admitted,
    CallArguments,
    CallBegan,
    CallEnded,
    Event,
    Failed,
    Finished,
    Prefilled,
    Reason,
    Reasoned,
    Spoke,
    Used,
)

Told = dict[str, Any]
"""An event of the API, its ``type`` included."""


@dataclass(frozen=True, slots=True)
class MessageHead:
    """What is known of an answer before it begins.

    Attributes:
        id: of the message.
        model: as the client called it.
        request_id: for errors.
        shown: how much of the reasoning is told.
        tells_context: whether the client knows the stop reason of a full context.
        warms: whether only the prompt is read and no answer told.
    """

    id: str
    model: str
    request_id: str = ""
    shown: Shown = "whole"
    tells_context: bool = True
    warms: bool = False


class MessageStream:
    """A ``Translator``.

    Args:
        head: of the answer.
    """

    media_type = "text/event-stream"

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._prompt_tokens = 0
        self._started = False
        self._open: Literal["text", "thinking", "tool_use"] | None = None
        self._index = -1  # of the block that began last
        self._thought = hashlib.sha256()
        self._finished: Finished | None = None

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        for told in self.told(event):
            yield sse(told, event=told["type"])

    def ping(self) -> bytes:
        """An event, and a comment before the first one."""
        return sse({"type": "ping"}, event="ping") if self._started else b": ping\n\n"

    def told(self, event: Event) -> Iterator[Told]:
        """What an event means to the client, not yet as bytes."""
        match event:
            case Admitted(prompt_tokens):
                self._prompt_tokens = prompt_tokens
            case Prefilled(cached_tokens):
                yield from self._start(cached_tokens)
            case Failed(error):
                yield error_body(error, self._head.request_id)
            case Finished():
                self._finished = event
            case Used():
                yield from self._end(event)
            case _ if self._head.warms:
                pass
            case Reasoned(_, text):
                yield from self._think(text)
            case Spoke(_, text):
                if text:
                    yield from self._say(text)
            case CallBegan(_, _, id, name):
                yield from self._begin("tool_use", {"id": f"toolu_{id}", "name": name, "input": {}})
            case CallArguments(_, _, fragment):
                if fragment:
                    yield self._delta({"type": "input_json_delta", "partial_json": fragment})
            case CallEnded():
                yield from self._close()

    def _start(self, cached_tokens: int) -> Iterator[Told]:
        if self._started:
            return
        self._started = True
        message: dict[str, Any] = {
            "id": self._head.id,
            "type": "message",
            "role": "assistant",
            "model": self._head.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {**input_usage(self._prompt_tokens, cached_tokens), "output_tokens": 1},
        }
        yield {"type": "message_start", "message": message}
        yield {"type": "ping"}

    def _think(self, text: str) -> Iterator[Told]:
        if self._head.shown == "hidden" or not text:
            return
        if self._open != "thinking":
            yield from self._begin("thinking", {"thinking": "", "signature": ""})
            self._thought = hashlib.sha256()
        self._thought.update(text.encode(errors="replace"))
        if self._head.shown == "whole":
            yield self._delta({"type": "thinking_delta", "thinking": text})

    def _say(self, text: str) -> Iterator[Told]:
        if self._open != "text":
            yield from self._begin("text", {"text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def _begin(self, kind: Literal["text", "thinking", "tool_use"], block: dict[str, Any]) -> Iterator[Told]:
        yield from self._close()
        yield from self._start(0)
        self._open = kind
        self._index += 1
        yield {"type": "content_block_start", "index": self._index, "content_block": {"type": kind, **block}}

    def _delta(self, delta: dict[str, Any]) -> Told:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}

    def _close(self) -> Iterator[Told]:
        if self._open is None:
            return
        if self._open == "thinking":
            # Clients want one and send it back; nothing here depends on it.
            signature = base64.b64encode(self._thought.digest()).decode()
            yield self._delta({"type": "signature_delta", "signature": signature})
        self._open = None
        yield {"type": "content_block_stop", "index": self._index}

    def _end(self, used: Used) -> Iterator[Told]:
        yield from self._start(used.cached_tokens)
        yield from self._close()
        finished = self._finished
        if finished is None or finished.reason == "cancelled":
            yield from self.told(Failed(ApiError("draining", "the answer was stopped before its end; ask again")))
            return
        warms = self._head.warms
        if self._index < 0 and not warms:  # quick starts read content[0].text
            yield from self._begin("text", {"text": ""})
            yield from self._close()
        delta = {
            "stop_reason": "max_tokens" if warms else self._reason(finished.reason),
            "stop_sequence": finished.stop,
        }
        usage = {
            **input_usage(used.prompt_tokens, used.cached_tokens),
            "output_tokens": 0 if warms else used.generated_tokens,
            "output_tokens_details": {"thinking_tokens": 0 if warms else used.reasoning_tokens},
        }
        yield {"type": "message_delta", "delta": delta, "usage": usage}
        yield {"type": "message_stop"}

    def _reason(self, reason: Reason) -> str:
        match reason:
            case "stop_string":
                return "stop_sequence"
            case "length":
                return "max_tokens"
            case "context":
                return "model_context_window_exceeded" if self._head.tells_context else "max_tokens"
            case "tools":
                return "tool_use"
            case _:
                return "end_turn"


def input_usage(prompt_tokens: int, cached_tokens: int) -> dict[str, int]:
    """The tokens of the prompt, counted once each: either as input or as read from the cache."""
    return {
        "input_tokens": prompt_tokens - cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached_tokens,
    }
