"""The answers of llama.cpp's own interface, whole and streamed. Source: api-contracts 8."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadran.engine.request import Scored
from cadran.serve.answering import sse
from cadran.serve.collected import Collected
from cadran.serve.events import Event, Failed, Finished, Reason, Spoke, Used
from cadran.serve.ide.answer_limits import AnswerLimits
from cadran.serve.openai.errors import error_body
from cadran.serve.openai.logprobs import finite
from cadran.tokenizer.tokenizer import Tokenizer

STOP_TYPE: dict[Reason, str] = {
    "eos": "eos", "stop_string": "word", "length": "limit", "context": "limit", "tools": "eos", "cancelled": "none",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class NativeHead:
    """What all answers to a request have in common.

    Attributes:
        model: as the client called it.
        tokenizer: for the texts of tokens.
        probabilities: whether tokens are told with theirs.
        silent: whether the prompt was only to be read.
        truncated: whether some of the prompt did not fit.
        fields: of the answer that are wanted; None for all.
    """

    model: str
    tokenizer: Tokenizer
    probabilities: bool = False
    silent: bool = False
    truncated: bool = False
    fields: Sequence[str] | None = None


def native_body(head: NativeHead, collected: Collected, index: int = 0) -> dict[str, Any]:
    """A whole answer."""
    answer, content = collected.answers[0], ""
    body = _last(head, collected.used, answer.reason, answer.stop)
    if not head.silent:
        content = answer.text
        if head.probabilities:
            body["completion_probabilities"] = _probabilities(head.tokenizer, answer.tokens)
    body = {"index": index, "content": content, "model": head.model, **body, "has_new_line": "\n" in content}
    return body if head.fields is None else _chosen(body, head.fields)


class NativeStream:
    """A ``Translator``.

    Args:
        head: of the answer.
        limits: further ends of it; what comes after them is not told.
    """

    media_type = "text/event-stream"

    def __init__(self, head: NativeHead, limits: AnswerLimits | None = None) -> None:
        self._head, self._limits = head, limits or AnswerLimits()
        self._reason: Reason = "cancelled"
        self._stop: str | None = None

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        match event:
            case Spoke(_, text, tokens) if not self._head.silent and not self._limits.over:
                yield from self._chunk(self._limits.feed(text), tokens)
            case Finished(_, reason, stop):
                if self._limits.over:
                    reason, stop = "length", None
                self._reason, self._stop = reason, stop
                yield from self._chunk(self._limits.end(), ())
            case Used():
                last = _last(self._head, event, self._reason, self._stop)
                last = {"index": 0, "content": "", "model": self._head.model, **last}
                yield sse(last if self._head.fields is None else _chosen(last, self._head.fields))
            case Failed(error):
                yield sse(error_body(error))
            case _:
                pass

    def _chunk(self, text: str, tokens: Sequence[Scored]) -> Iterator[bytes]:
        if not text and not (tokens and self._head.probabilities):
            return
        chunk: dict[str, Any] = {"index": 0, "content": text, "stop": False}
        if tokens and self._head.probabilities:
            chunk["completion_probabilities"] = _probabilities(self._head.tokenizer, tokens)
        yield sse(chunk)

    def ping(self) -> bytes:
        """A comment."""
        return b": ping\n\n"


def _last(head: NativeHead, used: Used, reason: Reason, stop: str | None) -> dict[str, Any]:
    generated = 0 if head.silent else used.generated_tokens
    reading, writing = used.first_token, 0.0 if head.silent else max(used.seconds - used.first_token, 0.0)
    read = max(used.prompt_tokens - used.cached_tokens, 0)
    return {
        "stop": True,
        "stop_type": "limit" if head.silent else STOP_TYPE[reason],
        "stopping_word": "" if head.silent else stop or "",
        "tokens_predicted": generated,
        "tokens_evaluated": used.prompt_tokens,
        "tokens_cached": used.cached_tokens,
        "truncated": head.truncated,
        "timings": {
            "cache_n": used.cached_tokens,
            "prompt_n": read,
            "prompt_ms": reading * 1000,
            "prompt_per_token_ms": reading * 1000 / read if read else 0.0,
            "prompt_per_second": read / reading if reading else 0.0,
            "predicted_n": generated,
            "predicted_ms": writing * 1000,
            "predicted_per_token_ms": writing * 1000 / generated if generated else 0.0,
            "predicted_per_second": generated / writing if writing else 0.0,
        },
    }


def _chosen(body: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """The wanted fields; ``timings/prompt_n`` takes one out of another and puts it beside the rest."""
    chosen: dict[str, Any] = {}
    for field in fields:
        value: Any = body
        for name in field.split("/"):
            if not isinstance(value, Mapping) or name not in value:
                break
            value = value[name]
        else:
            chosen[field.split("/")[-1]] = value
    return chosen


def _probabilities(tokenizer: Tokenizer, tokens: Sequence[Scored]) -> list[dict[str, Any]]:
    return [
        _entry(tokenizer, scored.token, scored.logprob)
        | {"top_logprobs": [_entry(tokenizer, id, logprob) for id, logprob in scored.top]}
        for scored in tokens
    ]


def _entry(tokenizer: Tokenizer, token: int, logprob: float | None) -> dict[str, Any]:
    raw = tokenizer.token_bytes(token)
    return {"id": token, "token": raw.decode("utf-8", "replace"), "bytes": list(raw), "logprob": finite(logprob)}
