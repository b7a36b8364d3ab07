"""``POST /v1/completions``: texts are continued as they are, filled in where there is a suffix, or only scored."""

import asyncio
import secrets
import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from cadran.serve.answering import JSON, StreamAnswer, until_gone
from cadran.serve.collected import collect
from cadran.serve.exchange import Exchange
from cadran.serve.family import service_of
from cadran.serve.large_body import BodyRoute
from cadran.serve.openai.completion_answer import CompletionHead, CompletionStream, Prompt, completion_body
from cadran.serve.openai.completion_request import CompletionRequest
from cadran.serve.openai.fingerprint import fingerprint
from cadran.serve.service import Service
from cadran.tokenizer.tokenizer import Tokenizer

router = APIRouter(tags=["OpenAI"], route_class=BodyRoute)
LONG = 2000
"""Characters from which a text is encoded in a thread, so that others do not wait."""


@router.post("/v1/completions")
@router.post("/completions", include_in_schema=False)
async def completions(request: Request, body: CompletionRequest) -> Response:
    """Continue texts, or ids of tokens."""
    service = service_of(request)
    exchange = await until_gone(request, _begun(service, body))
    try:
        head = await _head(service, exchange, body)
    except BaseException:
        exchange.close()
        raise
    if body.stream:
        return StreamAnswer(exchange, CompletionStream(head, body.wants_usage))
    async with exchange:
        collected = await until_gone(request, collect(aiter(exchange)))
        if head.top is None and head.prompt_top is None:
            return JSON(completion_body(head, collected))
        return await asyncio.to_thread(lambda: JSON(completion_body(head, collected)))  # megabytes, as in chat


async def _begun(service: Service, body: CompletionRequest) -> Exchange:
    return await service.begin(*await body.prepared(service))


async def _head(service: Service, exchange: Exchange, body: CompletionRequest) -> CompletionHead:
    tokenizer = exchange.served.engine.tokenizer
    return CompletionHead(
        id=f"cmpl-{secrets.token_hex(12)}",
        created=int(time.time()),
        model=exchange.model or exchange.served.known.name,
        fingerprint=fingerprint(exchange.served, service.settings),
        tokenizer=tokenizer,
        prompts=[
            await _prompt(tokenizer, asked, ids, bool(body.echo))
            for asked, ids in zip(body.prompts, exchange.prompts, strict=True)
        ],
        answers=body.n or 1,
        drawn=body.drawn,
        top=body.logprobs,
        prompt_top=body.prompt_logprobs,
        ids=bool(body.return_token_ids),
        scoring=body.scoring,
    )


async def _prompt(tokenizer: Tokenizer, asked: str | list[int], ids: tuple[int, ...], echo: bool) -> Prompt:
    if not echo:
        return Prompt(ids)
    if not isinstance(asked, str):
        return Prompt(ids, tokenizer.decode(ids))

    def opening() -> int:
        return len(ids) - len(tokenizer.encode(asked, special=True))

    return Prompt(ids, asked, opening() if len(asked) < LONG else await asyncio.to_thread(opening))
