"""``POST /v1/fim/completions``: fill in the middle, asked as Mistral does and answered in the shape of a chat.

No ``content`` is null and no chunk is without a choice: Continue reads ``choices[0].delta.content`` of each.
Source: api-contracts 8.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from cadran.serve.answering import JSON, StreamAnswer, sse, until_gone
from cadran.serve.asked import GenerateRequest
from cadran.serve.collected import Collected, collect
from cadran.serve.events import Admitted, Event, Failed, Finished, Reason, Spoke, Used
from cadran.serve.family import service_of
from cadran.serve.ide.gap import Gap, fim_prompt
from cadran.serve.ide.json_route import JsonRoute
from cadran.serve.ide.open_body import OpenBody
from cadran.serve.openai.errors import error_body
from cadran.serve.openai.usage import FINISH, usage_body
from cadran.serve.service import Service

router = APIRouter(tags=["FIM"], route_class=JsonRoute)


class FimRequest(OpenBody):
    """The body. Unknown fields are passed over."""

    model: str = ""
    prompt: str = ""
    suffix: str | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=10)
    top_p: float | None = Field(default=None, ge=0, le=1)
    stop: str | list[str] | None = None
    random_seed: int | None = None
    seed: int | None = None
    stream: bool = False

    async def asked(self, service: Service) -> GenerateRequest:
        """What it means; the likeliest tokens are taken where no temperature is given.

        Raises:
            ApiError: there is no such model, or it was not taught to fill in.
        """
        gap = Gap(self.prompt, self.suffix or "")
        prompt = await fim_prompt(service, self.model, gap, answer=self.max_tokens)
        seed = self.random_seed if self.random_seed is not None else self.seed
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return GenerateRequest(
            model=self.model,
            prompt=prompt.ids,
            sampling={
                "temperature": self.temperature or 0.0,
                "top_p": 1.0 if self.top_p is None else max(self.top_p, 1e-9),
                "seed": secrets.randbits(63) if seed is None else seed % 2**64,
            },
            max_tokens=self.max_tokens,
            stop=(*(text for text in stops if text), *prompt.stop),
            stop_ids=prompt.stop_ids,
        )


@router.post("/v1/fim/completions")
@router.post("/fim/completions", include_in_schema=False)
async def fim_completions(request: Request, body: FimRequest) -> Response:
    """Write what belongs between a prompt and a suffix."""
    service = service_of(request)
    asked = await until_gone(request, body.asked(service))
    exchange = await until_gone(request, service.begin(asked))
    model = exchange.model or exchange.served.known.name
    head = FimHead(f"cmpl-{secrets.token_hex(12)}", int(time.time()), model)
    if body.stream:
        return StreamAnswer(exchange, FimStream(head))
    async with exchange:
        return JSON(fim_body(head, await until_gone(request, collect(aiter(exchange)))))


@dataclass(frozen=True, slots=True)
class FimHead:
    """What all chunks have in common: an id, the time of the answer in seconds since 1970, and the model's name."""

    id: str
    created: int
    model: str

    def to_json(self, object: str) -> dict[str, Any]:
        """As every chunk begins."""
        return {"id": self.id, "object": object, "created": self.created, "model": self.model}


def fim_body(head: FimHead, collected: Collected) -> dict[str, Any]:
    """A whole answer."""
    answer = collected.answers[0]
    message = {"role": "assistant", "content": answer.text}
    choice = {"index": 0, "message": message, "finish_reason": FINISH[answer.reason]}
    return head.to_json("chat.completion") | {"choices": [choice], "usage": usage_body(collected.used)}


class FimStream:
    """A ``Translator``; the usage comes with the last choice.

    Args:
        head: of all chunks.
    """

    media_type = "text/event-stream"

    def __init__(self, head: FimHead) -> None:
        self._head = head
        self._reason: Reason = "cancelled"

    def feed(self, event: Event) -> Iterator[bytes]:
        """See ``Translator``."""
        match event:
            case Admitted():
                yield self._chunk({"role": "assistant", "content": ""})
            case Spoke(_, text) if text:
                yield self._chunk({"content": text})
            case Finished(_, reason):
                self._reason = reason
            case Used():
                yield self._chunk({"content": ""}, FINISH[self._reason], usage=usage_body(event))
                yield sse("[DONE]")
            case Failed(error):
                yield sse(error_body(error))
            case _:
                pass

    def ping(self) -> bytes:
        """A comment."""
        return b": ping\n\n"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return sse(self._head.to_json("chat.completion.chunk") | {"choices": [choice]} | more)
