"""``GET /slots``: what is under way, as llama.cpp tells it. It shows prompts, so it is there only where ``slots`` asks.

A place here is nobody's own: the list has an entry for each request that generates, in order of arrival, and one
without a request for each place that is left. Counts alone, without any setting, are at ``/v1/load``.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of

router = APIRouter(tags=["Operations"])

LONGEST = 20_000
"""Tokens of a prompt that are shown at most, its last ones."""


@router.get("/slots")
async def slots(request: Request, fail_on_no_slot: str | None = None) -> Response:
    """What is under way, prompts included; 501 unless the setting ``slots`` asks for it."""
    service = service_of(request)
    if not service.settings.slots:
        return _error(501, "slots = true in cadran.toml shows prompts here; /v1/load counts", "not_supported_error")
    free = max(0, service.settings.parallel - service.admission.running)
    if fail_on_no_slot and not free:
        return _error(503, "no slot available", "unavailable_error")
    under_way = list(service.exchanges)
    told = [{"id": number, **_under_way(exchange)} for number, exchange in enumerate(under_way)]
    told += [{"id": number, "is_processing": False} for number in range(len(told), len(told) + free)]

    def written() -> Response:
        for entry, exchange in zip(told, under_way, strict=False):
            entry["prompt"] = exchange.served.engine.tokenizer.decode(exchange.prompts[0][-LONGEST:])
        return JSON(told)

    return await asyncio.to_thread(written)


def _under_way(exchange: Exchange) -> dict[str, Any]:
    asked, done = exchange.request, exchange.generated_tokens
    sampling = {name: value for name, value in asked.sampling.items() if isinstance(value, int | float)}
    left = max(0, exchange.room - done)
    return {
        "is_processing": True,
        "model": exchange.served.known.name,
        "n_ctx": exchange.served.engine.context,
        "n_prompt_tokens": exchange.prompt_tokens,
        "params": {"n_predict": asked.max_tokens or -1, "n": exchange.answers, **sampling},
        "next_token": [{"has_next_token": left > 0, "n_remain": left, "n_decoded": done}],
    }


def _error(status: int, message: str, type: str) -> Response:
    return JSON({"error": {"code": status, "message": message, "type": type}}, status_code=status)
